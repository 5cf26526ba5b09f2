"""``mdel check``: find an experiment's mistakes before anything is made."""

import click

from mdel_assets.experiment.experiment import Experiment, load_experiment
from mdel_assets.home import MdelHome, experiment_name


@click.command()
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Check an experiment before it runs: every mistake, and what its sources hold.

    FILE is a YAML file or a bundled experiment, by default that of MDEL_EXPERIMENT. The command
    checks settings, files, model configurations and the first records of each local source. It
    makes nothing and does not use the network. It exits non-zero if something is wrong.
    """
    from mdel_assets.maintenance.experiment_checks import look_around

    experiment = load_experiment(file or experiment_name())
    findings = look_around(MdelHome.from_environment().lineage(experiment))
    click.echo(f"Experiment '{experiment.name}': {_in_words(experiment)}")
    for note in (*findings.notes, *findings.doubts):
        click.echo(f"  {note}")
    for mistake in findings.mistakes:
        click.echo(f"- {mistake}")
    if findings.mistakes:
        count = len(findings.mistakes)
        raise click.ClickException(f"{count} mistake{'s' * (count > 1)} to correct.")
    click.echo("No mistake was found.")


def _in_words(experiment: Experiment) -> str:
    seed = experiment.seed_model.path or "a seed model from scratch"
    counts = {
        "domain": len(experiment.domain_keys),
        "variant": len(experiment.variants),
        "recipe": len(experiment.merges),
        "mixture": len(experiment.mixtures),
        "model": len(experiment.model_keys),
    }
    told = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    replicates = f"; {experiment.replicates} replicates" if experiment.replicates > 1 else ""
    return f"{', '.join(told)} to score at most; {seed}{replicates}"
