"""``mdel forget``: list, mark or delete everything that was made from a domain's text."""

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mdel_assets.cli.completion import complete_domain
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name

if TYPE_CHECKING:
    from mdel_assets.maintenance.forgetting import ForgettingPlan


@click.command()
@click.option("--domain", required=True, shell_complete=complete_domain, help="The domain's key.")
@click.option(
    "--mark", is_flag=True, help="Record what is derived, so that it cannot be published."
)
@click.option(
    "--delete",
    is_flag=True,
    help="Delete the domain's text and what was made from it, here and in the object store.",
)
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option(
    "--yes-delete-remote", is_flag=True, help="Delete the repositories it was published to, too."
)
def forget(*, domain: str, mark: bool, delete: bool, yes: bool, yes_delete_remote: bool) -> None:
    """List everything that was made from a domain's text; with an option, mark or delete it."""
    from mdel_assets.defs.forgetting import delete_samples, runs_with_samples
    from mdel_assets.maintenance.forgetting import (
        delete_local,
        delete_remote,
        mark_forgotten,
        plan_after_publishing,
        plan_forgetting,
    )

    warnings.simplefilter("ignore")
    home, experiment = MdelHome.from_environment(), load_experiment(experiment_name())
    lineage = home.lineage(experiment)
    plan = plan_forgetting(home, lineage, domain)
    runs = runs_with_samples(home, domain, experiment=experiment.name)
    _show(plan, runs)
    if not (plan.text or plan.derived or plan.publications or runs):
        click.echo(f"Nothing in {home.root} was made from text of '{domain}'.")
        return
    if delete and not yes:
        _refuse_unless_agreed(
            plan, runs, repositories=plan.repositories if yes_delete_remote else []
        )
    if mark:
        mark_forgotten(lineage, plan)
        click.echo(f"{len(plan.derived)} marked in {lineage.forgotten}")
        plan = plan_after_publishing(home, lineage, domain)
    if delete:
        if runs:
            delete_samples(home, domain, experiment=experiment.name)
        plan = delete_local(home, lineage, domain)
        there = f" and in {lineage.remote.address}" if lineage.remote else ""
        click.echo(f"{_amount(plan, runs)} deleted here{there}")
    if yes_delete_remote:
        for told in delete_remote(plan, lineage=lineage):
            click.echo(f"deleted    {told}")
    elif plan.repositories:
        click.echo("Published repositories are kept; --yes-delete-remote deletes them.")
    if not (mark or delete or yes_delete_remote):
        click.echo("Nothing was changed. Use --mark or --delete to change something.")
    if lineage.remote:
        click.echo(
            f"Not searched: raw shards in {lineage.remote.address}, and the homes of other "
            f"machines: run the same command there."
        )
    click.echo(
        f"Remove '{domain}' from the experiment's domains, or the next run remakes it. Not "
        f"searched: the shards' source files, other experiments, and copies outside "
        f"{home.root}."
    )


def _show(plan: "ForgettingPlan", runs: list[str]) -> None:
    for text in plan.removable:
        click.echo(f"text       {text.path}: {text.holds}, {_size(text.size_bytes)}")
    for run in runs:
        click.echo(f"text       Dagster's run {run}: sample rows and texts")
    for entry in plan.derived:
        label, size = entry.found.artifact.label, _size(entry.found.size_bytes)
        click.echo(f"derived    {label:34} {size:>10}  {entry.reason}")
    for told in plan.repositories:
        click.echo(f"published  {told}")
    for text in plan.text:
        if text.remedy:
            click.echo(f"elsewhere  {text.path}: {text.holds} ({text.remedy})")


def _refuse_unless_agreed(
    plan: "ForgettingPlan", runs: list[str], *, repositories: Sequence[str]
) -> None:
    """Ask before anything is marked or deleted; "no" ends the command."""
    all_of_it = " and ".join([_amount(plan, runs), *repositories])
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"--delete would permanently delete {all_of_it}. This is not a terminal, so the "
            f"command cannot ask for confirmation: add --yes."
        )
    click.confirm(f"Permanently delete {all_of_it}?", abort=True)


def _amount(plan: "ForgettingPlan", runs: list[str]) -> str:
    history = f" and {len(runs)} runs of Dagster's history" if runs else ""
    return (
        f"{len(plan.derived)} artifacts, {len(plan.removable)} files and folders with text "
        f"({_size(plan.size_bytes)}){history}"
    )


def _size(size_bytes: int) -> str:
    mib = size_bytes / 2**20
    return f"{mib:,.1f} MiB" if mib < 2**10 else f"{mib / 2**10:,.1f} GiB"
