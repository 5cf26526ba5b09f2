"""``mdel store``: what the object store holds, and what of it is of no use any more."""

import json

import click

from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.store.remote.unreferenced import remove_files, superseded, unreferenced_files


@click.command()
@click.option(
    "--remove-superseded", is_flag=True, help="Remove versions that a newer one has replaced."
)
@click.option(
    "--remove-unreferenced", is_flag=True, help="Remove files that belong to no artifact."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def store(*, remove_superseded: bool, remove_unreferenced: bool, as_json: bool) -> None:
    """List what the store that MDEL_STORE names holds, and what of it is of no use any more."""
    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    found = lineage.remote
    if found is None:
        raise ExperimentError(
            "MDEL_STORE is not set. Set it to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX."
        )
    found.look_again()
    name = lineage.experiment.name
    older = superseded(found, name)
    if remove_superseded:
        for version in older:
            found.remove(version.place, [version.fingerprint])
    files = unreferenced_files(found)
    if remove_unreferenced:
        remove_files(found, files)
    num_artifacts = len(list(found.places(name)))
    if as_json:
        content = {
            "address": found.address,
            "experiment": name,
            "num_artifacts": num_artifacts,
            "superseded": [version._asdict() for version in older],
            "unreferenced": [{"name": f.name, "size_bytes": f.size_bytes} for f in files],
            "removed_superseded": remove_superseded,
            "removed_unreferenced": remove_unreferenced,
        }
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"{found.address} holds {num_artifacts} artifacts of '{name}'.")
    for version in older:
        click.echo(f"superseded    {version.place} ({version.fingerprint})")
    for file in files:
        click.echo(f"unreferenced  {file.name}")
    _tell(len(older), sum(v.size_bytes for v in older), "superseded versions", remove_superseded)
    _tell(len(files), sum(f.size_bytes for f in files), "unreferenced files", remove_unreferenced)


def _tell(number: int, size_bytes: int, what: str, is_removed: bool) -> None:  # noqa: FBT001
    if number:
        option = what.split()[0]
        end = "are removed." if is_removed else f"are kept; --remove-{option} removes them."
        click.echo(f"{number} {what} ({size_bytes / 2**20:,.1f} MiB) {end}")
