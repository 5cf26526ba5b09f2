"""``mdel serve``: an OpenAI-compatible server for an experiment's models and ensembles."""

import functools
import importlib.util
import os
import warnings
from pathlib import Path

import click

from mdel_assets.cli.sizes import to_bytes
from mdel_assets.errors import ServingError, install_extra
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome, experiment_name
from mdel_assets.machine.console import showing_progress

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_to_bytes = functools.partial(to_bytes, kilo=1024)
_count = click.IntRange(min=1)
_seconds = click.FloatRange(min=0)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="The port to listen on.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys, one a line, of which each request shows one; MDEL_API_KEY holds one more.",
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    callback=_to_bytes,
    show_default="half of the machine's, or of the GPU's",
    help="For weights and caches; least recently used models are unloaded.",
)
@click.option(
    "--max-running", type=_count, default=32, show_default=True, help="Sequences decoded at once."
)
@click.option(
    "--max-waiting", type=_count, default=128, show_default=True, help="Sequences in the queue."
)
@click.option(
    "--max-prompt-tokens", type=_count, default=32_768, show_default=True, help="Longest prompt."
)
@click.option(
    "--max-new-tokens", type=_count, default=4_096, show_default=True, help="Longest answer."
)
@click.option(
    "--max-body",
    metavar="SIZE",
    callback=_to_bytes,
    default="1M",
    show_default=True,
    help="Largest body of a request.",
)
@click.option(
    "--request-seconds",
    type=_seconds,
    default=600.0,
    show_default=True,
    help="Longest time for one answer.",
)
@click.option(
    "--grace-seconds",
    type=_seconds,
    default=30.0,
    show_default=True,
    help="How long running requests may take once the server is told to end.",
)
def serve(
    host: str,
    port: int,
    api_key_file: Path | None,
    max_memory: float | None,
    max_running: int,
    max_waiting: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    max_body: float,
    request_seconds: float,
    grace_seconds: float,
) -> None:
    """Serve the experiment's models and ensembles as OpenAI's API does: see docs/serving.md.

    On this machine alone, unless requests have to show a key.
    """
    _require_extra()
    warnings.simplefilter("ignore")
    from mdel_assets.serving.keys import read_keys, refuse_open_door
    from mdel_assets.serving.limits import Limits, half_of_memory
    from mdel_assets.serving.server import serve_until_told

    keys = read_keys(api_key_file, os.environ)
    refuse_open_door(host, keys)
    limits = Limits(
        max_memory_bytes=half_of_memory() if max_memory is None else int(max_memory),
        max_running=max_running,
        max_waiting=max_waiting,
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        max_body_bytes=int(max_body),
        request_seconds=request_seconds,
        grace_seconds=grace_seconds,
    )
    lineage = MdelHome.from_environment().lineage(load_experiment(experiment_name()))
    with showing_progress():
        serve_until_told(
            lineage,
            host=host,
            port=port,
            keys=keys,
            limits=limits,
            on_start=lambda url: click.echo(f"{lineage.experiment.name}: {url}/v1"),
        )


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ServingError(
            f"mdel serve needs {', '.join(missing)}, which the extra 'serve' holds. Install it: "
            f"{install_extra('serve')}"
        )
