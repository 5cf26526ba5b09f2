"""``mdel ui``: start the web UI, behind a guard, and the daemon, as ``dagster dev`` does."""

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
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.store.durable_files import write_text_atomically

_GUARDED = "mdel_assets.web.guarded_webserver"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=3000,
    show_default=True,
    help="The port to listen on.",
)
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
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"Experiment '{experiment}' on {address}, its runs in {folder}")
    # Dagster has its own handler; with `show_log_lines`, each line would be printed twice.
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
    # It ends on Ctrl-C, and also if one of the two died; it then prints a traceback.
    if any(process.returncode for process in started):
        raise MdelError(
            f"The webserver or the daemon ended with the error above, so there is no page at "
            f"{address}. Correct the error and run the same command again."
        )


def _workspace(folder: Path, experiment: str) -> Path:
    """Write Dagster's workspace file; the code location has the experiment's name."""
    from mdel_assets.defs.run_labels import location_name

    module = {
        "module_name": "mdel_assets.definitions",
        "location_name": location_name(experiment),
    }
    path = folder / "workspace.yaml"
    write_text_atomically(path, json.dumps({"load_from": [{"python_module": module}]}))
    return path


def _refuse_taken_port(host: str, port: int) -> None:
    """Raise `MdelError` if the port is taken: the daemon would run without a page."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise MdelError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Stop the process that uses the "
            f"port, or choose another port: mdel ui --port {port + 1}"
        ) from error
