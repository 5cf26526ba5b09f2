"""``mdel doctor``: find, explain and repair what crashes, copied homes and full disks leave."""

import warnings
from collections.abc import Iterator

import click

from mdel_assets.experiment.experiment import Experiment, load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.maintenance import examination
from mdel_assets.maintenance.examination import Finding


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option("--digests", is_flag=True, help="Verify the digest of every file.")
@click.option("--offline", is_flag=True, help="Do not contact the Hub or Weights & Biases.")
def doctor(*, repair: bool, digests: bool, offline: bool) -> None:
    """Find what crashes leave behind: dead runs, held slots, half-written or damaged artifacts.

    Exits non-zero if something is left to repair.
    """
    experiment = load_experiment(experiment_name())
    home = MdelHome.from_environment()
    warnings.simplefilter("ignore")
    num_found = num_left = 0
    for finding in _examine(home, experiment, read_files=digests, offline=offline):
        num_found += 1
        click.echo(f"- {finding.sentence}")
        if repair and finding.repair:
            click.echo(f"  -> {finding.repair()}")
        else:
            num_left += 1
            if finding.repair:
                click.echo("  -> 'mdel doctor --repair' repairs this")
    if not num_found:
        click.echo(f"{home.root} is well.")
    elif num_left:
        raise click.ClickException(f"{num_left} of {num_found} findings are not repaired.")
    else:
        click.echo(f"All {num_found} findings are repaired.")


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
