"""uvicorn with an end that lets running requests finish: new ones get 503 meanwhile."""

import asyncio
import importlib
import logging
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from mdel_assets.errors import ServingError
from mdel_assets.line.lineage import Lineage
from mdel_assets.machine.shared_cores import sharing_cores
from mdel_assets.serving.app import make_app
from mdel_assets.serving.door import NAMES_VARIABLE, Door
from mdel_assets.serving.keys import ApiKeys
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.service import Service
from mdel_assets.web.request_guard import names_from

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.05
_SECONDS_TO_SAY_SO = 5


def serve_until_told(
    lineage: Lineage,
    *,
    host: str,
    port: int,
    keys: ApiKeys,
    limits: Limits,
    on_start: Callable[[str], None],
) -> None:
    """Serve an experiment until SIGTERM or SIGINT; ``on_start`` is told the address.

    Raises:
        ServingError: the address cannot be listened on.

    """
    with listen(host, port) as place, sharing_cores():
        service = Service(lineage, limits=limits, meters=Meters())
        door = make_app(service, keys=keys, names=names_from(os.environ, variable=NAMES_VARIABLE))
        shown = f"[{host}]" if ":" in host else host
        _load_libraries()
        on_start(f"http://{shown}:{place.getsockname()[1]}")
        ModelServer(service, door).run(sockets=[place])


class ModelServer(uvicorn.Server):
    """Serves ``door`` until SIGTERM or SIGINT.

    The first signal closes the door: what comes is refused with 503, what runs has
    ``grace_seconds`` to end, and what then still runs is refused, too. A second signal ends the
    server at once.
    """

    def __init__(self, service: Service, door: Door) -> None:
        config = uvicorn.Config(
            door,
            log_config=None,
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_SAY_SO,
        )
        super().__init__(config)
        self._service = service
        self._door = door
        self.loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None
        self._is_told = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end."""
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer a signal: in the main thread, between any two of its steps."""
        if self._is_told or self.loop is None:
            self.should_exit = self.force_exit = True
        else:
            self.loop.call_soon_threadsafe(self.close_door)
        self._is_told = True

    def close_door(self) -> None:
        """Begin to end; to be called in the loop's thread."""
        self._door.is_closing = True
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        seconds = self._service.limits.grace_seconds
        _log.info("ending: %d requests have %.0f s to finish", self._door.num_inside, seconds)
        await self._wait_until_empty(seconds)
        await asyncio.to_thread(self._service.decoder.stop)
        await self._wait_until_empty(_SECONDS_TO_SAY_SO)
        self.should_exit = True

    async def _wait_until_empty(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._door.num_inside and loop.time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)


def _load_libraries() -> None:
    """Load what the first request would wait for."""
    for name in ("torch", "transformers", "mdel_assets.generation.speaker"):
        importlib.import_module(name)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes one that is free.

    Raises:
        ServingError: the address cannot be listened on.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServingError(
            f"{host}:{port} cannot be listened on ({error.strerror}). Stop what uses it, or choose "
            f"another port: mdel serve --port {port + 1}"
        ) from error
