"""``mdel doctor``: find, explain and repair what crashes, copied homes and full disks leave."""

import dataclasses
import json
import warnings
from collections.abc import Iterator

import click

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.maintenance import examination
from mdel_assets.maintenance.examination import Finding
from mdel_assets.maintenance.examination_of_store import examine_store


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option("--digests", is_flag=True, help="Verify the digest of every file.")
@click.option("--offline", is_flag=True, help="Do not contact the Hub, W&B or the object store.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def doctor(*, repair: bool, digests: bool, offline: bool, as_json: bool) -> None:
    """Find what crashes leave behind: dead runs, held slots, half-written or damaged artifacts.

    Exits non-zero if something is left to repair.
    """
    experiment = load_experiment(experiment_name())
    home = MdelHome.from_environment()
    warnings.simplefilter("ignore")
    examined: list[_Examined] = []
    for finding in _examine(home, experiment, read_files=digests, offline=offline):
        if not as_json:
            click.echo(f"- {finding.sentence}")
        told = finding.repair() if repair and finding.repair else None
        examined.append(_Examined(finding.sentence, finding.repair is not None, told))
        if not as_json:
            _show_repair(examined[-1])
    num_found, num_left = len(examined), sum(found.repair is None for found in examined)
    if as_json:
        content = {
            "experiment": experiment.name,
            "home": str(home.root),
            "findings": [dataclasses.asdict(found) for found in examined],
            "num_left": num_left,
        }
        click.echo(json.dumps(content, indent=2))
    elif not num_found:
        click.echo(f"{home.root} is well.")
    elif not num_left:
        click.echo(f"All {num_found} findings are repaired.")
    if num_left:
        raise click.ClickException(f"{num_left} of {num_found} findings are not repaired.")


@dataclasses.dataclass(frozen=True)
class _Examined:
    """A finding; ``repair`` says how it was repaired, and is None where it was not."""

    sentence: str
    is_repairable: bool
    repair: str | None


def _show_repair(found: _Examined) -> None:
    if found.repair is not None:
        click.echo(f"  -> {found.repair}")
    elif found.is_repairable:
        click.echo("  -> 'mdel doctor --repair' repairs this")


def _examine(
    home: MdelHome, experiment: Experiment, *, read_files: bool, offline: bool
) -> Iterator[Finding]:
    """Yield what is wrong; each finding is repaired before the search continues."""
    yield from examination.examine_home(home, experiment)
    if (home.dagster_home(experiment.name) / "dagster.yaml").exists():
        from mdel_assets.defs.examination import examine_instance

        yield from examine_instance(home.dagster_home(experiment.name))
    yield from examination.examine_folders(home)
    yield from examination.examine_work(home, experiment)
    yield from examination.examine_records(home, experiment, read_files=read_files)
    if home.root.exists():
        yield from examination.examine_disk(home, experiment)
    if not offline:
        yield from examination.examine_network(home, experiment)
        yield from examine_store(home.lineage(experiment))
