"""``mdel merge`` and ``mdel publish``: merge and publish outside Dagster's runs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from mdel_assets.cli.completion import complete_domain, completing_keys_of
from mdel_assets.errors import (
    MdelError,
    TrainingInterruptedError,
    UnknownKeyError,
    unknown_name_message,
)
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.lineage import Lineage

if TYPE_CHECKING:
    from mdel_assets.publishing.publication import Published

PUBLISHED = {
    "dataset": "hub_dataset",
    "expert": "hub_expert",
    "merged": "hub_merged_model",
    "mixture": "hub_mixture",
}


@click.command()
@click.option(
    "-e",
    "--expert",
    "experts",
    multiple=True,
    shell_complete=complete_domain,
    help="A domain, a model folder, or a Hub id (owner/name@revision). Repeatable.",
)
@click.option(
    "--recipe",
    "recipe_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recipe in mergekit's schema; it may name the models itself.  [default: the mean]",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write.  [default: MDEL_HOME/merges/NAME]",
)
@click.option("--hf-repo", help="Also publish the merge as NAME or OWNER/NAME.")
@click.option("--dry-run", is_flag=True, help="List what would be published, and send nothing.")
def merge(
    experts: tuple[str, ...],
    recipe_file: Path | None,
    output: Path | None,
    hf_repo: str | None,
    dry_run: bool,  # noqa: FBT001
) -> None:
    """Merge two or more models into a folder, and publish it where --hf-repo says so."""
    from mdel_assets.line.locks import making
    from mdel_assets.merging.one_off import (
        one_off_artifact,
        one_off_recipes,
        refuse_foreign_folder,
    )
    from mdel_assets.publishing.backend import Repository
    from mdel_assets.publishing.one_off_merge import (
        make_one_off,
        plan_merge,
        publish_one_off,
        refuse_publishing,
    )
    from mdel_assets.publishing.publisher import make_publisher

    if not experts and recipe_file is None:
        raise click.UsageError("Give -e at least twice, or a --recipe that names its models.")
    experiment, home = load_experiment(experiment_name()), MdelHome.from_environment()
    publisher = repository = None
    if hf_repo:
        # A wrong name is told before a missing token.
        repository = Repository("model", hf_repo if "/" in hf_repo else f"OWNER/{hf_repo}")
        publisher = make_publisher(experiment, dry_run=dry_run)
        if "/" not in hf_repo:
            repository = Repository("model", f"{publisher.namespace}/{hf_repo}")
    lineage = home.lineage(experiment)
    recipes = one_off_recipes([_named(experiment, name) for name in experts], recipe_file)
    folder = (output or home.merges / _folder_name(hf_repo, experts, recipe_file)).resolve()
    refuse_foreign_folder(folder)
    plan = plan_merge(lineage, recipes)
    if repository:
        refuse_publishing(lineage, plan, repository)
    # What is sent is not replaced meanwhile by another merge into the same folder.
    with making(one_off_artifact(folder, experiment=experiment.name)):
        merged = make_one_off(lineage, plan, folder)
        click.echo(
            f"{merged.merge_method} of {', '.join(merged.inputs)}: {merged.num_parameters:,} "
            f"parameters in {folder}"
        )
        if publisher and repository:
            _show_published(publish_one_off(lineage, plan, merged, repository, publisher))


def _show_published(done: "Published | list[str]") -> None:
    if isinstance(done, list):
        click.echo("\n".join(done))
        return
    verb = "published" if done.is_new else "nothing has changed"
    click.echo(f"{verb}: {done.url} ({done.num_files} files sent)")


@click.command()
@click.argument("kind", type=click.Choice(list(PUBLISHED)))
@click.argument("keys", nargs=-1, shell_complete=completing_keys_of(PUBLISHED, parameter="kind"))
@click.option("--dry-run", is_flag=True, help="List what would be sent, and send nothing.")
def publish(
    kind: Literal["dataset", "expert", "merged", "mixture"],
    keys: tuple[str, ...],
    dry_run: bool,  # noqa: FBT001
) -> None:
    """Publish datasets, experts, merged models or mixtures: those named by KEYS, or all that exist.

    This does the same as the assets hub_dataset, hub_expert, hub_merged_model and hub_mixture,
    without a Dagster run. One that fails does not stop the others; at the end the command names the
    failed ones and exits non-zero.
    """
    from mdel_assets.publishing import steps as steps_publishing
    from mdel_assets.publishing.publication import Publication
    from mdel_assets.publishing.publisher import make_publisher

    experiment, home = load_experiment(experiment_name()), MdelHome.from_environment()
    named = {"merged": list(experiment.merges), "mixture": list(experiment.mixtures)}.get(kind)
    names = experiment.domain_keys if named is None else named
    if unknown := [key for key in keys if key not in names]:
        what = {"merged": "recipe", "mixture": "mixture"}.get(kind, "domain")
        raise UnknownKeyError(unknown_name_message(what, unknown[0], names))
    publisher = make_publisher(experiment, dry_run=dry_run)
    lineage = home.lineage(experiment)
    step = steps_publishing.PUBLISH[PUBLISHED[kind]]
    wanted = keys or _made(lineage, kind, lineage.present_domains() if named is None else named)
    failed: list[str] = []
    for key in wanted:
        try:
            done = step(lineage, key, publisher=publisher)
        except TrainingInterruptedError:
            # Told to end while it waited for a lock: the others are not to be published either.
            raise
        except MdelError as error:
            click.echo(f"{kind:8} {key:24} {error}", err=True)
            failed.append(key)
            continue
        if done.record is None:
            click.echo("\n".join(done.plan))
            continue
        click.echo(f"{kind:8} {key:24} {Publication.of(done.record).url}")
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(wanted)} failed: {', '.join(failed)}. The others are finished."
        )


def _made(lineage: Lineage, kind: str, keys: Sequence[str]) -> list[str]:
    """Return those of ``keys`` that there is something to publish of; tell of the others."""
    made: list[str] = []
    for key in keys:
        (source,) = lineage.inputs(PUBLISHED[kind], key)
        if source.is_made():
            made.append(key)
        else:
            click.echo(f"{kind:8} {key:24} is not made: left out", err=True)
    return made


def _named(experiment: Experiment, name: str) -> str:
    """Return a model's name as recipes write it; a domain's key means its expert."""
    return f"expert:{name}" if name in experiment.domain_keys else name


def _folder_name(hf_repo: str | None, experts: tuple[str, ...], recipe_file: Path | None) -> str:
    name = hf_repo or "-".join(experts) or (recipe_file.stem if recipe_file else "")
    parts = [part.rpartition("/")[2].partition("@")[0] for part in name.split("-")]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-.") or "merged"
