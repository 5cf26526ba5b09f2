"""``mdel ui``: the web UI and the daemon, as ``dagster dev`` starts them, behind a guard."""

import importlib
import json
import logging
import os
import socket
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.store.durable_files import write_text_atomically

_GUARDED = "mdel_assets.web.guarded_webserver"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=int, default=3000, show_default=True, help="The port to listen on.")
def ui(host: str, port: int) -> None:
    """Start the web UI and the daemon: the graph, its charts, schedules and backfills."""
    warnings.simplefilter("ignore")
    experiment = load_experiment(experiment_name()).name
    home = MdelHome.from_environment()
    _refuse_taken_port(host, port)
    from mdel_assets.defs.instance import open_instance

    open_instance(home, experiment).dispose()
    folder = home.dagster_home(experiment)
    os.environ["DAGSTER_HOME"] = str(folder)
    click.echo(f"Experiment '{experiment}' on http://{host}:{port}, its runs in {folder}")
    # It has a handler of its own: through `show_log_lines` each line would stand there twice.
    logging.getLogger("dagster").propagate = False
    dev: Any = importlib.import_module("dagster._cli.dev")
    start = dev.open_ipc_subprocess
    started: list[Any] = []

    def start_guarded(words: Sequence[str], **options: Any) -> Any:
        words = [_GUARDED if w == "dagster_webserver" else w for w in words]
        started.append(start(words, **options))
        return started[-1]

    # What it starts the webserver and the daemon with.
    dev.open_ipc_subprocess = start_guarded
    place = ["--host", host, "--port", str(port)]
    dev.dev_command.main(
        ["--workspace", str(_workspace(folder, experiment)), *place], standalone_mode=False
    )
    # It ends as well as by Ctrl-C where one of the two died, for which it prints a traceback.
    if any(process.returncode for process in started):
        raise MdelError(
            f"The webserver or the daemon ended with an error, which stands above, and so there is "
            f"no page at http://{host}:{port}. Mend what it says and run the same command again."
        )


def _workspace(folder: Path, experiment: str) -> Path:
    """Write down for Dagster what to show; the code location has the experiment's name."""
    from mdel_assets.defs.run_labels import location_name

    module = {
        "module_name": "mdel_assets.definitions",
        "location_name": location_name(experiment),
    }
    path = folder / "workspace.yaml"
    write_text_atomically(path, json.dumps({"load_from": [{"python_module": module}]}))
    return path


def _refuse_taken_port(host: str, port: int) -> None:
    """Raise `MdelError` where something else listens: the daemon would run without a page."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise MdelError(
            f"{host}:{port} cannot be listened on ({error.strerror}). Stop what uses it, or choose "
            f"another port: mdel ui --port {port + 1}"
        ) from error
