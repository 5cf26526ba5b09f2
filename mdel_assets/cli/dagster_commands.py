"""``mdel dg`` and ``mdel dagster``: Dagster's own commands, on this experiment's instance.

Dagster finds its instance only by ``DAGSTER_HOME``; without it, a run leaves no trace and ignores
pools. These commands create the instance that ``mdel ui`` shows and pass it on with the module.
"""

import os
import shutil
import sys
import warnings
from pathlib import Path

import click

from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.store.durable_files import RUN_BYTES, require_room

_BEGIN_RUNS = {"launch", "materialize", "execute", "backfill"}
_AS_THEY_ARE = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(context_settings=_AS_THEY_ARE)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def dg(words: tuple[str, ...]) -> None:
    """Run Dagster's dg, for example: mdel dg launch --assets expert_model --partition github."""
    _become("dg", words)


@click.command(context_settings=_AS_THEY_ARE)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def dagster(words: tuple[str, ...]) -> None:
    """Run Dagster's older command, for example: mdel dagster instance concurrency set io 4."""
    _become("dagster", words)


def _become(name: str, words: tuple[str, ...]) -> None:
    """Replace this process by a command from this Python's environment, or from the path."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    program = shutil.which(name, path=os.pathsep.join(places))
    if program is None:
        raise MdelError(
            f"The command '{name}' is not installed in the environment of {sys.executable}. "
            f"Run 'make install'."
        )
    experiment = load_experiment(experiment_name()).name
    home = MdelHome.from_environment()
    warnings.simplefilter("ignore")
    from mdel_assets.defs.instance import open_instance

    open_instance(home, experiment).dispose()
    folder = home.dagster_home(experiment)
    if not _BEGIN_RUNS.isdisjoint(words):
        require_room("Dagster's history of the run", folder, wanted_bytes=RUN_BYTES)
    settings = {
        "DAGSTER_HOME": str(folder),
        "DAGSTER_MODULE_NAME": "mdel_assets.definitions",
    }
    os.execve(program, [name, *words], os.environ | settings)  # noqa: S606 no shell is meant
