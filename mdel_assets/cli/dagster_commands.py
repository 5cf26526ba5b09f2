"""``mdel dg`` and ``mdel dagster``: Dagster's own commands, on this experiment's instance.

Dagster finds its instance only by ``DAGSTER_HOME``; without it, a run leaves no trace and ignores
pools. These commands create the instance that ``mdel ui`` shows and pass it on with the module.
"""

import importlib
import importlib.util
import logging
import os
import sys
import warnings

import click

from mdel_assets.errors import MdelError
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.machine.console import standard_streams_restored
from mdel_assets.store.durable_files import RUN_BYTES, explaining_full_disk, require_room

_MODULES = {"dg": "dagster_dg_cli.cli", "dagster": "dagster._cli"}
_BEGIN_RUNS = {"launch", "materialize", "execute", "backfill"}
_AS_THEY_ARE = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(context_settings=_AS_THEY_ARE)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def dg(words: tuple[str, ...]) -> None:
    """Run Dagster's dg, for example: mdel dg launch --assets expert_model --partition github."""
    _run("dg", words)


@click.command(context_settings=_AS_THEY_ARE)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def dagster(words: tuple[str, ...]) -> None:
    """Run Dagster's older command, for example: mdel dagster instance concurrency set io 4."""
    _run("dagster", words)


def _run(name: str, words: tuple[str, ...]) -> None:
    """Run one of Dagster's commands in this process, which ends as that command does.

    Raises:
        DiskFullError: Dagster's databases have no room, before the run or during it.
        MdelError: the package of the command is not installed.

    """
    if importlib.util.find_spec(_MODULES[name].partition(".")[0]) is None:
        raise MdelError(
            f"The command '{name}' is not installed in the environment of {sys.executable}. "
            f"Run 'make install'."
        )
    experiment = load_experiment(experiment_name()).name
    home = MdelHome.from_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mdel_assets.defs.instance import open_instance

        open_instance(home, experiment).dispose()
    folder = home.dagster_home(experiment)
    if not _BEGIN_RUNS.isdisjoint(words):
        require_room("Dagster's history of the run", folder, wanted_bytes=RUN_BYTES)
    os.environ["DAGSTER_HOME"] = str(folder)
    os.environ["DAGSTER_MODULE_NAME"] = "mdel_assets.definitions"
    # Dagster's commands show their log themselves.
    logging.getLogger().handlers.clear()
    # The name under which Dagster's command shows how it is used.
    sys.argv = [name, *words]
    told = explaining_full_disk("Dagster's history of the run (some 16 MiB)", folder)
    with standard_streams_restored(), told:
        importlib.import_module(_MODULES[name]).main()
