"""``mdel check``: find an experiment's mistakes before anything is made."""

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from mdel_assets.cli.completion import complete_experiment
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name

if TYPE_CHECKING:
    from mdel_assets.maintenance.experiment_checks import Findings


@click.command()
@click.argument("file", required=False, shell_complete=complete_experiment)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def check(file: str | None, *, as_json: bool) -> None:
    """Check an experiment before it runs: every mistake, and what its sources hold.

    FILE is a YAML file or a bundled experiment, by default that of MDEL_EXPERIMENT. The command
    checks settings, files, model configurations and the first records of each local source. It
    makes nothing and does not use the network. It exits non-zero if something is wrong.
    """
    from mdel_assets.maintenance.experiment_checks import look_around

    experiment = load_experiment(file or experiment_name())
    findings = look_around(MdelHome.from_environment().lineage(experiment))
    if as_json:
        counts = {f"num_{name}s": count for name, count in _counts(experiment).items()}
        content = {
            "experiment": experiment.name,
            **counts,
            "replicates": experiment.replicates,
            **dataclasses.asdict(findings),
        }
        click.echo(json.dumps(content, indent=2))
    else:
        _show(experiment, findings)
    if findings.mistakes:
        count = len(findings.mistakes)
        raise click.ClickException(f"{count} mistake{'s' * (count > 1)} to correct.")


def _show(experiment: Experiment, findings: "Findings") -> None:
    click.echo(f"Experiment '{experiment.name}': {_in_words(experiment)}")
    for note in (*findings.notes, *findings.doubts):
        click.echo(f"  {note}")
    for mistake in findings.mistakes:
        click.echo(f"- {mistake}")
    if not findings.mistakes:
        click.echo("No mistake was found.")


def _counts(experiment: Experiment) -> dict[str, int]:
    """Return how many there are of what an experiment names, at most."""
    return {
        "domain": len(experiment.domain_keys),
        "variant": len(experiment.variants),
        "recipe": len(experiment.merges),
        "mixture": len(experiment.mixtures),
        "model": len(experiment.model_keys),
    }


def _in_words(experiment: Experiment) -> str:
    seed = experiment.seed_model.path or "a seed model from scratch"
    counts = _counts(experiment)
    told = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    replicates = f"; {experiment.replicates} replicates" if experiment.replicates > 1 else ""
    return f"{', '.join(told)} to score at most; {seed}{replicates}"
