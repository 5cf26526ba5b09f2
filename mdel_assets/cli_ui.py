"""``mdel ui``: the web UI and the daemon, as ``dagster dev`` starts them, behind a guard."""

import importlib
import os
import socket
import warnings
from collections.abc import Sequence
from typing import Any

import click

from mdel_assets.errors import MdelError
from mdel_assets.home import MdelHome

_GUARDED = "mdel_assets.guarded_webserver"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=int, default=3000, show_default=True, help="The port to listen on.")
def ui(host: str, port: int) -> None:
    """Start the web UI and the daemon: the graph, its charts, schedules and backfills."""
    warnings.simplefilter("ignore")
    from mdel_assets.defs.instance import open_instance

    home = MdelHome.from_environment()
    open_instance(home).dispose()
    os.environ["DAGSTER_HOME"] = str(home.dagster_home)
    _refuse_taken_port(host, port)
    dev: Any = importlib.import_module("dagster._cli.dev")
    start = dev.open_ipc_subprocess

    def start_guarded(words: Sequence[str], **options: Any) -> Any:
        return start([_GUARDED if w == "dagster_webserver" else w for w in words], **options)

    # What it starts the webserver with.
    dev.open_ipc_subprocess = start_guarded
    place = ["--host", host, "--port", str(port)]
    dev.dev_command.main(
        ["--module-name", "mdel_assets.definitions", *place], standalone_mode=False
    )


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
