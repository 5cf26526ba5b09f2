"""``mdel status``: what a run would make, and why."""

import dataclasses
import json

import click

from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.what_is_stale import what_is_stale
from mdel_assets.maintenance.experiment_checks import refuse_mistakes


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def status(*, as_json: bool) -> None:
    """List what is missing or stale, and why, and the domains that the corpus lacks."""
    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    refuse_mistakes(lineage)
    line, absent = what_is_stale(lineage), lineage.absent_domains()
    if as_json:
        content = {
            "experiment": lineage.experiment.name,
            "stale": [dataclasses.asdict(stale) for stale in line.found],
            "is_cut_off": line.is_cut_off,
            "absent_domains": absent,
        }
        click.echo(json.dumps(content, indent=2))
        return
    for stale in line.found:
        click.echo(f"{stale.kind:20} {stale.key:28} {stale.reason}")
    if line.is_cut_off:
        click.echo("everything that depends on these is stale, too")
    if absent:
        click.echo(f"absent: the corpus has no training document of {', '.join(absent)}")
    num_stale = len(line.found)
    click.echo(f"{num_stale} stale" if num_stale else "Everything is up to date.")
