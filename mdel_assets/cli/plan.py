"""``mdel plan``: what a run would make, and what that takes, before anything runs."""

import json
import warnings

import click

from mdel_assets.cli.completion import complete_asset, complete_experiment
from mdel_assets.errors import unknown_name_message
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.lineage import Lineage
from mdel_assets.machine.console import alone_on_standard_output
from mdel_assets.maintenance.experiment_checks import refuse_mistakes
from mdel_assets.planning.placements import Placements


@click.command()
@click.option(
    "-e",
    "--experiment",
    "name",
    metavar="EXPERIMENT",
    shell_complete=complete_experiment,
    help="A bundled experiment or a YAML file.  [default: that of MDEL_EXPERIMENT]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--device", "device_name", help="Plan for another device, such as h100.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many of that device work at the same time.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="Plan for a device that reaches so many TFLOP/s.",
)
@click.option(
    "--until",
    metavar="ASSET",
    shell_complete=complete_asset,
    help="The last asset of the run.",
)
def plan(
    name: str | None,
    *,
    as_json: bool,
    device_name: str | None,
    count: int,
    tflops: float | None,
    until: str | None,
) -> None:
    """Say what a run would make, how long it takes, and how much disk and memory it needs.

    Times are of this machine, which is measured for some seconds, or of a device that you name.
    Nothing is made.
    """
    from mdel_assets.planning.devices import device_of_rate, named_device

    if device_name is not None and tflops is not None:
        raise click.UsageError("Give --device or --tflops: each says how fast it computes.")
    if count > 1 and device_name is None and tflops is None:
        raise click.UsageError("--count is the number of a named device: give --device or --tflops")
    device = None
    if device_name is not None:
        device = named_device(device_name, count=count)
    elif tflops is not None:
        device = device_of_rate(tflops, count=count)
    home = MdelHome.from_environment()
    lineage = home.lineage(load_experiment(name or experiment_name()))
    if until is not None and until not in lineage.kinds():
        raise click.UsageError(unknown_name_message("asset", until, lineage.kinds()))
    refuse_mistakes(lineage)
    warnings.simplefilter("ignore")
    from mdel_assets.planning.kept import keep_plan
    from mdel_assets.planning.planned import plan_run
    from mdel_assets.planning.table import plan_lines

    placements = _placements(home)
    # Libraries that are loaded to measure the machine print what is no part of a plan.
    with alone_on_standard_output():
        found = plan_run(lineage, device=device, until=until, placements=placements)
    if device is None and until is None:
        keep_plan(lineage, found)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(plan_lines(found)))


def refuse_what_exceeds(
    lineage: Lineage, *, until: str | None, max_hours: float | None, max_disk_bytes: float | None
) -> None:
    """Plan a run, and refuse it if it may take more than the limits; do nothing without a limit.

    Raises:
        LimitError: it takes more, or that is not known.

    """
    if max_hours is None and max_disk_bytes is None:
        return
    from mdel_assets.planning.limits import refuse_excess
    from mdel_assets.planning.planned import plan_run

    placements = _placements(MdelHome(lineage.root.parent))
    with alone_on_standard_output():
        plan = plan_run(lineage, until=until, placements=placements)
    refuse_excess(plan, max_hours=max_hours, max_disk_bytes=max_disk_bytes)


def _placements(home: MdelHome) -> Placements:
    """Return where `compute.yaml` lets artifacts be made."""
    from mdel_assets.defs.compute import load_compute
    from mdel_assets.defs.placements import placements_of

    return placements_of(load_compute(home))
