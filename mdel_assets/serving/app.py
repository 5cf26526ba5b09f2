"""The routes: what is asked is read, decoded and answered."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mdel_assets.errors import MdelError
from mdel_assets.serving.answers import DONE, Usage, event
from mdel_assets.serving.asking import Asked, chat_asked, completion_asked
from mdel_assets.serving.bodies import ChatBody, CompletionBody, GenerationBody
from mdel_assets.serving.door import Door
from mdel_assets.serving.exchange import ClientLeftError, Exchange
from mdel_assets.serving.keys import ApiKeys
from mdel_assets.serving.orders import Piece
from mdel_assets.serving.refusals import RefusedRequestError
from mdel_assets.serving.service import Service

_log = logging.getLogger(__name__)
_SECONDS_TO_READ = 10.0


def make_app(service: Service, *, keys: ApiKeys, names: list[str]) -> Door:
    """Return the application, behind its door; ``names`` are those of this server."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_exception_handler(RefusedRequestError, _refuse)
    app.add_exception_handler(MdelError, _tell_mishap)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(Exception, _apologize)
    app.add_exception_handler(ClientLeftError, _leave)
    app.add_exception_handler(ClientDisconnect, _leave)
    door = Door(app, keys=keys, limits=service.limits, meters=service.meters, names=names)
    _add_generation(app, service)
    _add_facts(app, service, door)
    return door


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body, asked = await service.take(request, CompletionBody, completion_asked)
        return await _answer(service, request, body, asked)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body, asked = await service.take(request, ChatBody, chat_asked)
        return await _answer(service, request, body, asked)


def _add_facts(app: FastAPI, service: Service, door: Door) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": await service.read(service.catalogue.models)}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return await service.read(service.catalogue.model, name)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/health")
    async def health() -> JSONResponse:
        if door.is_closing or not service.decoder.is_alive:
            status = "shutting down" if door.is_closing else "the decoding thread has ended"
            return JSONResponse({"status": status}, status_code=503)
        return JSONResponse({"status": "ok"})


async def _answer(
    service: Service, request: Request, body: GenerationBody, asked: Asked
) -> Response:
    exchange = service.begin(request, asked)
    try:
        # What fails before the first token is answered with its own status, streamed or not.
        first = await exchange.next()
        asked = asked.written_by(first[0][1].fingerprint)
        if body.stream:
            return _Stream(exchange, first, asked, tells_usage=body.tells_usage)
        pieces: list[list[Piece]] = [[] for _ in asked.orders]
        while True:
            for index, piece in first:
                pieces[index].append(piece)
            if exchange.is_over:
                break
            first = await exchange.next()
    except BaseException:
        exchange.cancel()
        raise
    exchange.cancel()
    num_written = sum(choice[-1].num_tokens for choice in pieces)
    usage = Usage(asked.num_prompt_tokens, num_written)
    return JSONResponse(asked.form.whole(pieces, usage))


class _Stream(StreamingResponse):
    """Server-sent events; whatever ends it takes back what is not decoded yet."""

    def __init__(
        self,
        exchange: Exchange,
        first: list[tuple[int, Piece]],
        asked: Asked,
        *,
        tells_usage: bool,
    ) -> None:
        self._exchange = exchange
        events = _events(exchange, first, asked, tells_usage=tells_usage)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that stays and does not read would hold its place for ever.
        try:
            async with asyncio.timeout_at(self._exchange.deadline + _SECONDS_TO_READ):
                await self.stream_response(send)
        except (ClientLeftError, TimeoutError):
            _log.info("a stream was cut off by its client")
        finally:
            self._exchange.cancel()


async def _events(
    exchange: Exchange, pieces: list[tuple[int, Piece]], asked: Asked, *, tells_usage: bool
) -> AsyncIterator[bytes]:
    begun: set[int] = set()
    num_written = [0] * len(asked.orders)
    try:
        while True:
            for index, piece in pieces:
                num_written[index] = piece.num_tokens
            if events := asked.form.events(pieces, begun=begun):
                yield events
            if exchange.is_over:
                break
            pieces = await exchange.next()
    except RefusedRequestError as refusal:
        yield event(refusal.content())
        return
    if tells_usage:
        yield asked.form.last_event(Usage(asked.num_prompt_tokens, sum(num_written)))
    yield DONE


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequestError)
    return JSONResponse(error.content(), status_code=error.status, headers=error.headers())


async def _tell_mishap(_: Request, error: Exception) -> Response:
    """Tell of a model's files that cannot be read."""
    refusal = RefusedRequestError(str(error), status=503, code="model_unavailable")
    return JSONResponse(refusal.content(), refusal.status, headers=refusal.headers())


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}."
    code = {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "http_error")
    refusal = RefusedRequestError(message, status=error.status_code, code=code)
    return JSONResponse(refusal.content(), error.status_code, headers=error.headers)


async def _apologize(_: Request, error: Exception) -> Response:
    message = "The server failed. Its log says why."
    refusal = RefusedRequestError(message, status=500, code="internal_error")
    return JSONResponse(refusal.content(), 500)


async def _leave(_: Request, error: Exception) -> Response:
    # Nobody reads it.
    return Response(status_code=499)
