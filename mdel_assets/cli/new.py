"""``mdel new``: an experiment to begin with, for a corpus that has none."""

from pathlib import Path

import click

from mdel_assets.errors import ExperimentError
from mdel_assets.home import MdelHome


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A folder or file of the corpus; further ones may follow.",
)
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The YAML file.  [default: NAME.yaml]",
)
@click.option("--force", is_flag=True, help="Overwrite the YAML file.")
def new(
    name: str, *, paths: tuple[Path, ...], more: tuple[Path, ...], output: Path | None, force: bool
) -> None:
    """Look at a corpus, and write an experiment NAME that reads it.

    The command finds layout, fields and labels, and proposes domains, a seed model and settings
    for this machine. Comments in the file say what it could not decide. It never overwrites a file
    without --force.
    """
    from mdel_assets.data.look import look_at
    from mdel_assets.experiment.loading import load_experiment
    from mdel_assets.maintenance.experiment_checks import look_around
    from mdel_assets.maintenance.first_experiment import first_experiment
    from mdel_assets.planning.first_choice import this_machine

    file = output or Path(f"{name}.yaml")
    if file.exists() and not force:
        raise ExperimentError(f"{file} exists. Give another --output, or --force to overwrite it.")
    if not file.absolute().parent.is_dir():
        raise ExperimentError(f"There is no folder '{file.parent}'. Make it first.")
    look = look_at([*paths, *more])
    first = first_experiment(name, look, folder=file.absolute().parent, machine=this_machine())
    with file.open("w" if force else "x", encoding="utf-8") as opened:
        opened.write(first.yaml)
    experiment = load_experiment(str(file))
    findings = look_around(MdelHome.from_environment().lineage(experiment))
    for told in (*first.doubts, *findings.doubts, *findings.mistakes):
        click.echo(f"  {told}")
    domains = (
        f"{experiment.clusters.clusters} clusters"
        if experiment.clusters
        else ", ".join(experiment.domain_keys)
    )
    click.echo(
        f"{file}: layout {look.layout}, text in {look.text_field}, domains: {domains}\n"
        f"Read it, then: mdel check {file}; MDEL_EXPERIMENT={file} mdel plan; "
        f"MDEL_EXPERIMENT={file} mdel run"
    )
