"""``mdel backfill``: make several partitions of one asset with one command."""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mdel_assets.cli.completion import complete_partitioned_asset, complete_partitions
from mdel_assets.errors import WebserverError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.store.durable_files import RUN_BYTES, require_room
from mdel_assets.web.webserver import LaunchedRun, Progress, Webserver

if TYPE_CHECKING:
    from mdel_assets.defs.launch import RunOutcome

_DEFAULT_WEBSERVER = "http://127.0.0.1:3000"
_POLL_SECONDS = 2.0
# How long to wait for a webserver that restarts; its daemon continues meanwhile.
_GRACE_SECONDS = 20.0


@click.command()
@click.option(
    "--asset",
    required=True,
    shell_complete=complete_partitioned_asset,
    help="A partitioned asset, such as expert_model.",
)
@click.option(
    "--domains",
    "--partitions",
    "selection",
    required=True,
    shell_complete=complete_partitions,
    help="Comma-separated keys, or all, or stale (those that a run would remake).",
)
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option(
    "--webserver",
    envvar="MDEL_WEBSERVER",
    help=f"The webserver whose daemon runs the backfill.  [default: {_DEFAULT_WEBSERVER} if it "
    f"serves this home and experiment, else this process]",
)
@click.option("--force", is_flag=True, help="Remake partitions that are up to date, too.")
@click.option("--here", is_flag=True, help="Run in this process, even if a webserver is running.")
def backfill(
    *,
    asset: str,
    selection: str,
    dry_run: bool,
    force: bool,
    webserver: str | None,
    here: bool,
) -> None:
    """Materialize several partitions of one asset.

    A partition that fails does not stop the others; at the end the command names the failed ones
    and exits non-zero. If a webserver with a daemon is running, that daemon runs the backfill: the
    web UI shows it, and it continues if this command is interrupted.
    """
    if here and webserver:
        raise click.UsageError("--here and --webserver exclude each other.")
    experiment = load_experiment(experiment_name())
    home = MdelHome.from_environment()
    warnings.simplefilter("ignore")
    from mdel_assets.defs.backfill import select_partitions
    from mdel_assets.defs.graph import build_definitions
    from mdel_assets.defs.instance import open_instance

    definitions = build_definitions(experiment, home)
    lineage = home.lineage(experiment)
    if force and asset.startswith("hub_"):
        raise click.UsageError("--force has no use in publishing, which asks the Hub itself.")
    reasons = select_partitions(definitions, lineage, asset=asset, selection=selection)
    forced = [key for key, reason in reasons.items() if force and not reason]
    reasons |= dict.fromkeys(forced, "forced")
    if dry_run or not reasons:
        _show_plan(asset, reasons)
        return
    server = None if here else _find_webserver(webserver, home, experiment.name)
    if server:
        if forced:
            _refuse_another_home(server, home, experiment.name)
        _remove(lineage, asset, forced)
        failed = _backfill_there(server, asset, list(reasons))
    else:
        with open_instance(home, experiment.name) as instance:
            history = home.dagster_home(experiment.name)
            require_room("Dagster's history of the run", history, wanted_bytes=RUN_BYTES)
            _remove(lineage, asset, forced)
            failed = _backfill_here(definitions, lineage, instance, asset, list(reasons))
    if failed:
        raise click.ClickException(
            f"{len(failed)} of {len(reasons)} partitions of {asset} not made: {', '.join(failed)}. "
            f"The others are finished; run the same command again to make these."
        )
    click.echo(f"All {len(reasons)} partitions of {asset} are made.")


def _show_plan(asset: str, reasons: Mapping[str, str]) -> None:
    for key, reason in reasons.items():
        click.echo(f"  {asset:20} {key:28} {reason or 'up to date: nothing to do'}")
    click.echo(f"{sum(map(bool, reasons.values()))} of {len(reasons)} would be remade.")


def _find_webserver(named: str | None, home: MdelHome, experiment: str) -> Webserver | None:
    server = Webserver(named or _DEFAULT_WEBSERVER)
    if named is None and not server.serves(root=str(home.root), experiment=experiment):
        return None
    if server.has_daemon():
        return server
    if named is not None:
        raise WebserverError(
            f"{server.url} has no running daemon, which runs backfills. Start the webserver and "
            f"the daemon with 'make ui'."
        )
    click.echo(f"{server.url} has no running daemon: the partitions run in this process.")
    return None


def _refuse_another_home(server: Webserver, home: MdelHome, experiment: str) -> None:
    """Refuse to remove from this home what the server's daemon would remake in another."""
    if not server.serves(root=str(home.root), experiment=experiment):
        raise WebserverError(
            f"{server.url} does not serve the experiment '{experiment}' in {home.root}, from which "
            f"--force removes what is to be remade. Name a webserver that does, or use --here."
        )


def _remove(lineage: Lineage, asset: str, keys: Iterable[str]) -> None:
    """Remove partitions that are up to date, here and in the store, which would give them back."""
    records = {key: lineage.current(asset, key) for key in keys}
    for key, record in records.items():
        artifact = lineage.artifact(asset, key)
        with making(artifact):
            artifact.remove()
            if artifact.remote and record:
                artifact.remote.remove(record.fingerprint)


def _backfill_here(
    definitions: Any, lineage: Lineage, instance: Any, asset: str, keys: Sequence[str]
) -> list[str]:
    """Run the partitions in this process; return those that were not made."""
    from mdel_assets.defs.backfill import backfill_here

    left = dict.fromkeys(keys)
    failed: list[str] = []

    def show_start(key: str) -> None:
        click.echo(f"  {len(keys) - len(left) + 1:3} of {len(keys)}  {asset} {key} ...")

    outcomes = backfill_here(
        definitions, lineage, instance=instance, asset=asset, keys=keys, on_start=show_start
    )
    try:
        for outcome in outcomes:
            for key in outcome.keys:
                left.pop(key)
            failed += outcome.not_made
            _show_outcome(outcome)
    except KeyboardInterrupt:
        click.echo("Interrupted. Finished partitions are kept.", err=True)
    return [*failed, *left]


def _show_outcome(outcome: "RunOutcome") -> None:
    click.echo(f"      {outcome.state:8} {outcome.key:28} {outcome.elapsed_seconds:8.1f} s")
    if outcome.message:
        click.echo(f"      {outcome.message}", err=True)


def _backfill_there(server: Webserver, asset: str, keys: Sequence[str]) -> list[str]:
    """Let a webserver's daemon run the partitions; return those that were not made."""
    backfill_id = server.launch_backfill(asset, keys)
    click.echo(f"Backfill {backfill_id}: {server.url}/runs/b/{backfill_id}")
    shown: dict[str, str] = {}
    while True:
        progress = _progress(server, backfill_id)
        for run in progress.runs:
            if shown.get(run.run_id) != run.status:
                shown[run.run_id] = run.status
                _show_run(server, run)
        if progress.has_ended:
            break
        time.sleep(_POLL_SECONDS)
    if progress.error:
        click.echo(progress.error, err=True)
    made = _covered((run for run in progress.runs if run.status == "SUCCESS"), keys)
    return [key for key in keys if key not in made]


def _progress(server: Webserver, backfill_id: str) -> Progress:
    """Return the progress of a backfill; retry for a while if the server does not answer."""
    until = time.monotonic() + _GRACE_SECONDS
    while True:
        try:
            return server.progress(backfill_id)
        except WebserverError as error:
            if time.monotonic() > until:
                raise WebserverError(
                    f"{error} The backfill {backfill_id} continues as soon as a daemon runs."
                ) from error
            time.sleep(_POLL_SECONDS)


def _covered(runs: Iterable[LaunchedRun], keys: Sequence[str]) -> set[str]:
    """Return the partitions that runs are for; a range is for all between its ends."""
    found: set[str] = set()
    for run in runs:
        places = [keys.index(key) for key in run.keys if key in keys]
        if places:
            found |= set(keys[min(places) : max(places) + 1])
    return found


def _show_run(server: Webserver, run: LaunchedRun) -> None:
    key = " to ".join(run.keys)
    again = " (again after a crash)" if run.is_retry else ""
    elapsed = f"{run.elapsed_seconds:8.1f} s" if run.elapsed_seconds else ""
    click.echo(f"  {run.status.lower():10} {key:28} {elapsed}{again}")
    if run.status == "FAILURE":
        click.echo(f"      {server.failure(run.run_id)}", err=True)
        click.echo(f"      {server.url}/runs/{run.run_id}", err=True)
