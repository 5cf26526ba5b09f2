"""``mdel run``: make everything that is missing or stale, and show it as it is made."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from mdel_assets.cli.completion import complete_asset
from mdel_assets.cli.matrix import print_matrix
from mdel_assets.cli.plan import refuse_what_exceeds
from mdel_assets.cli.run_views import JsonLines, PlainLines, RunView
from mdel_assets.cli.sizes import to_bytes
from mdel_assets.data.source_sizes import source_bytes
from mdel_assets.errors import unknown_name_message
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.maintenance.experiment_checks import refuse_mistakes

if TYPE_CHECKING:
    from mdel_assets.defs.launch import RunOutcome

# A core reads this in some three seconds, in which a process starts.
_WORTH_PROCESSES_BYTES = 16 << 20


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    show_default="the number of cores; 1 for small files",
    help="Processes that fetch shards and route their documents at the same time.",
)
@click.option(
    "--until",
    metavar="ASSET",
    shell_complete=complete_asset,
    help="Stop after this asset, such as domain_dataset.",
)
@click.option(
    "--max-hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Refuse to begin what takes longer, by its plan.",
)
@click.option(
    "--max-disk",
    "max_disk_bytes",
    metavar="SIZE",
    callback=to_bytes,
    help="Refuse to begin what needs more, such as 20GB.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each event.")
def run(
    *,
    workers: int | None,
    until: str | None,
    max_hours: float | None,
    max_disk_bytes: float | None,
    as_json: bool,
) -> None:
    """Make everything that is missing or stale, from the shards to the perplexity matrix."""
    started = time.monotonic()
    experiment = load_experiment(experiment_name())
    home = MdelHome.from_environment()
    lineage = home.lineage(experiment)
    kinds = lineage.kinds()
    if until is not None and until not in kinds:
        raise click.UsageError(unknown_name_message("asset", until, kinds))
    refuse_mistakes(lineage)
    refuse_what_exceeds(lineage, until=until, max_hours=max_hours, max_disk_bytes=max_disk_bytes)
    shown = kinds if until is None else kinds[: kinds.index(until) + 1]
    view = _view(shown, as_json=as_json)
    view.begin(experiment.name, home.root)
    warnings.simplefilter("ignore")
    from mdel_assets.defs.instance import open_instance
    from mdel_assets.defs.launch import run_line

    failed: list[RunOutcome] = []
    num_made = num_waiting = 0
    with open_instance(home, experiment.name) as instance, _saying_how_to_go_on(), view:
        for outcome in run_line(
            experiment,
            home,
            instance=instance,
            on_start=view.show_start,
            on_stage=view.show_stage,
            num_workers=workers or _num_workers(experiment),
            until=until,
        ):
            view.show(outcome)
            num_made += outcome.state == "made"
            failed += [outcome] * (outcome.state == "failed")
            num_waiting += len(outcome.not_made) if outcome.state == "skipped" else 0
    elapsed = time.monotonic() - started
    if failed:
        raise click.ClickException(_first_cause(failed, num_waiting))
    if as_json:
        return
    done = f"{num_made} runs in {elapsed:.0f} s" if num_made else "Nothing to do: all is up to date"
    click.echo(f"{done}.\n")
    if until is None:
        print_matrix(lineage)


def _num_workers(experiment: Experiment) -> int:
    """Return the number of cores, or 1 if starting processes takes longer than reading the files.

    Only local files are looked at.
    """
    places = [shard.location for shard in experiment.shards()]
    if any("://" in place for place in places):
        return os.cpu_count() or 1
    sizes = [source_bytes(place) for place in places]
    is_small = sum(size for size in sizes if size) < _WORTH_PROCESSES_BYTES
    return 1 if is_small and None not in sizes else os.cpu_count() or 1


def _view(kinds: Sequence[str], *, as_json: bool) -> RunView:
    """Return the view of a run over ``kinds`` that suits standard output."""
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return PlainLines()
    from mdel_assets.cli.live_table import LiveTable

    return LiveTable(kinds)


def _first_cause(failed: "Sequence[RunOutcome]", num_waiting: int) -> str:
    """Return what failed and how much waits for it; the last line explains the first failure."""
    names = [f"{outcome.kind} {outcome.key}".strip() for outcome in failed]
    waiting = f"; {num_waiting} more wait for these" if num_waiting else ""
    return (
        f"{len(failed)} failed: {', '.join(names)}{waiting}.\n"
        f"The first to fail was {names[0]}: {failed[0].message}"
    )


@contextlib.contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    """Answer Ctrl-C with one line."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.ClickException(
            "Stopped. Finished work is kept: run the same command again to continue."
        ) from None
