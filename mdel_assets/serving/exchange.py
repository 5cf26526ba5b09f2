"""One request's sequences: orders given to the decoding thread, and their pieces as they come."""

import asyncio
import functools
from collections.abc import Sequence

from starlette.requests import Request

from mdel_assets.serving.orders import News, Order, Piece, Ticket
from mdel_assets.serving.refusals import RefusedRequestError


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


class Exchange:
    """What one request waits for.

    It ends, and takes its orders back, when its client leaves, when it fails, when its time is over
    or when it is cancelled.
    """

    def __init__(self, request: Request, orders: Sequence[Order], *, seconds: float) -> None:
        self._inbox: asyncio.Queue[tuple[int, News | None]] = asyncio.Queue()
        self.tickets = [
            Ticket(order, receive=functools.partial(self._put, index))
            for index, order in enumerate(orders)
        ]
        self._num_open = len(self.tickets)
        self._seconds = seconds
        self.deadline = asyncio.get_running_loop().time() + seconds
        self._watch = asyncio.create_task(self._watch_client(request))

    @property
    def is_over(self) -> bool:
        """Whether every sequence has ended."""
        return not self._num_open

    async def next(self) -> list[tuple[int, Piece]]:
        """Return the next pieces, each with its sequence's index; at least one.

        Raises:
            RefusedRequestError: a sequence failed, or the time is over.
            ClientLeftError: the client left.

        """
        try:
            async with asyncio.timeout_at(self.deadline):
                arrived = [await self._inbox.get()]
        except TimeoutError as error:
            message = f"The answer took longer than {self._seconds:.0f} s. Ask for fewer tokens."
            raise RefusedRequestError(message, status=503, code="answer_timeout") from error
        while not self._inbox.empty():
            arrived.append(self._inbox.get_nowait())
        pieces = []
        for index, news in arrived:
            if news is None:
                raise ClientLeftError
            if isinstance(news, RefusedRequestError):
                raise news
            self._num_open -= news.finish_reason is not None
            pieces.append((index, news))
        return pieces

    def cancel(self) -> None:
        """Take back what has not ended."""
        for ticket in self.tickets:
            ticket.cancel()
        self._watch.cancel()

    def _put(self, index: int, news: News) -> None:
        self._inbox.put_nowait((index, news))

    async def _watch_client(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._inbox.put_nowait((0, None))
