"""``mdel map``: run a family of experiments, and write what experts were worth in each."""

import signal
import warnings

import click

from mdel_assets.experiment.families import load_family
from mdel_assets.home import MdelHome


@click.command("map")
@click.argument("family", default="map")
@click.option(
    "--table", "only_table", is_flag=True, help="Run nothing; show the finished settings."
)
@click.option("--fit", is_flag=True, help="Fit the forecast on this map, and judge it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def family_map(family: str, *, only_table: bool, fit: bool, as_json: bool) -> None:
    """Run every setting of a FAMILY that is not up to date, then map where branching pays.

    FAMILY is a bundled one or the YAML file of one. Each setting is an experiment of its own: plan
    it by `mdel plan -e map/middle`, or run it alone by `MDEL_EXPERIMENT=map/middle mdel run`. A map
    that was stopped goes on where it was.

    With --fit, the gains of settings with a forecast's probes are fitted on their features, and
    each is forecast by the others. The fit is the file fitted.json beside the map.
    """
    from mdel_assets.mapping.family_map import folder_of, write_family_map
    from mdel_assets.mapping.map_files import JSON_NAME, MARKDOWN_NAME
    from mdel_assets.mapping.points import JUDGEMENT_NAME, fit_family
    from mdel_assets.mapping.settings_run import run_settings, stale_settings

    warnings.simplefilter("ignore")
    own, home = load_family(family), MdelHome.from_environment()
    failed: list[str] = []
    if not only_table:
        stale = stale_settings(own, home)
        told = f"{len(own.settings)} settings, {len(stale)} to run"
        click.echo(f"Family '{own.name}' in {home.root}: {told}", err=True)
        # Told to end, the setting that runs saves a checkpoint first.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for run in run_settings(own, home, stale, logs=folder_of(own, home) / "logs"):
                how = f"failed: {run.message}" if run.message else "made"
                place = f"{run.number}/{run.of} {run.setting}"
                click.echo(f"{place}: {how} ({run.elapsed_seconds:.0f} s)", err=True)
                failed += [run.setting] * bool(run.message)
        except KeyboardInterrupt:
            raise click.ClickException(
                "Stopped. Finished work is kept: run the same command again to continue."
            ) from None
    outcomes, folder = write_family_map(own, home)
    if as_json:
        click.echo((folder / JSON_NAME).read_text("utf-8"), nl=False)
    else:
        click.echo((folder / MARKDOWN_NAME).read_text("utf-8"))
    if fit:
        fit_family(own, home, outcomes, folder)
    if fit and not as_json:
        click.echo((folder / JUDGEMENT_NAME).read_text("utf-8"))
    if not as_json:
        click.echo(f"{folder} holds the table, its figures as JSON, and the chart.")
    if failed:
        raise click.ClickException(
            f"{len(failed)} settings failed: {', '.join(failed)}. Their output is in "
            f"{folder / 'logs'}; run the same command again once the cause is gone."
        )
