"""One server's parts, and how a request passes through them."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from mdel_assets.line.lineage import Lineage
from mdel_assets.serving.asking import Asked
from mdel_assets.serving.bodies import GenerationBody, read_body
from mdel_assets.serving.catalogue import Catalogue
from mdel_assets.serving.decoding import Decoder
from mdel_assets.serving.door import MODEL, read_whole
from mdel_assets.serving.exchange import Exchange
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.orders import News, Ticket

T = TypeVar("T")
B = TypeVar("B", bound=GenerationBody)
Ask = Callable[..., Asked]


class Service:
    """The models of an experiment, a thread that decodes, and one that reads prompts."""

    def __init__(self, lineage: Lineage, *, limits: Limits, meters: Meters) -> None:
        from mdel_assets.generation.speakers import Speakers

        self.limits = limits
        self.meters = meters
        self.decoder = Decoder(Speakers(lineage), limits=limits, meters=meters, tell=self._tell)
        self.catalogue = Catalogue(lineage, Speakers(lineage), loaded=self.decoder.fingerprint)
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading")
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start to decode; what is new is told in the running loop."""
        self._loop = asyncio.get_running_loop()
        self.decoder.start()

    def stop(self) -> None:
        """Refuse what still runs, and end the threads."""
        self.decoder.stop()
        self._reading.shutdown()

    async def read(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run what reads files or text in a thread of its own, so that streams go on."""
        call = functools.partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def take(self, request: Request, kind: type[B], ask: Ask) -> tuple[B, Asked]:
        """Return a request's body, and what it asks for.

        Raises:
            RefusedRequestError: it cannot be answered.

        """
        body = read_body(await read_whole(request, self.limits), kind)
        tokenizer = await self.read(self.catalogue.tokenizer, body.model)
        request.scope[MODEL] = body.model
        return body, await self.read(ask, body, tokenizer, limits=self.limits)

    def begin(self, request: Request, asked: Asked) -> Exchange:
        """Put what is asked into the queue.

        Raises:
            RefusedRequestError: the queue is full, or the server is ending.

        """
        seconds = self.limits.request_seconds
        exchange = Exchange(request, asked.orders, seconds=seconds)
        try:
            self.decoder.submit(exchange.tickets)
        except BaseException:
            exchange.cancel()
            raise
        return exchange

    def _tell(self, news: Sequence[tuple[Ticket, News]]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_deliver, news)


def _deliver(news: Sequence[tuple[Ticket, News]]) -> None:
    for ticket, one in news:
        ticket.receive(one)
