"""``mdel forget``: a domain is taken back, and everything that was made from its text is named."""

import click

from mdel_assets.experiment import load_experiment
from mdel_assets.home import MdelHome, experiment_name


@click.command()
@click.option("--domain", required=True, help="The domain's key.")
@click.option("--mark", is_flag=True, help="Write down what is derived: it cannot be published.")
@click.option("--delete", is_flag=True, help="Delete what is derived on this machine.")
@click.option(
    "--yes-delete-remote", is_flag=True, help="Delete the repositories that it was published to."
)
def forget(
    domain: str,
    mark: bool,  # noqa: FBT001
    delete: bool,  # noqa: FBT001
    yes_delete_remote: bool,  # noqa: FBT001
) -> None:
    """List what was made from a domain's text; mark or delete it where an option says so."""
    from mdel_assets.steps_forgetting import (
        delete_local,
        delete_remote,
        find_traces,
        mark_forgotten,
    )

    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    traces = find_traces(lineage, domain)
    for path in traces.text_files:
        click.echo(f"text       {path}")
    for entry in traces.derived:
        click.echo(f"derived    {entry.artifact.label:34} {entry.reason}")
    for told in traces.repositories:
        click.echo(f"published  {told}")
    if mark:
        mark_forgotten(lineage, traces)
        click.echo(f"{len(traces.derived)} marked in {lineage.store.forgotten}")
    if delete:
        delete_local(lineage, traces)
        click.echo(f"{len(traces.derived) + len(traces.text_files)} deleted here")
    if yes_delete_remote:
        for told in delete_remote(traces):
            click.echo(f"deleted    {told}")
    elif traces.repositories:
        click.echo("What is published stays, unless --yes-delete-remote says otherwise.")
    if not (mark or delete or yes_delete_remote):
        click.echo("Nothing was changed: --mark and --delete change what is here.")
    click.echo(
        f"Take '{domain}' out of the experiment's domains, or the next run makes it anew. Not "
        f"touched: raw shards, which hold other text, too ({', '.join(traces.shards) or 'none'}); "
        f"merges and copies made outside the experiment; the Hub client's cache."
    )
