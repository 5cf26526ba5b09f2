"""What every request passes first: the server's name, a key, room, and the size of its body."""

import asyncio
import json
import logging
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mdel_assets.serving.keys import ApiKeys
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.refusals import RefusedRequestError, ending
from mdel_assets.web.request_guard import RequestGuard

_log = logging.getLogger(__name__)
NAMES_VARIABLE = "MDEL_SERVE_NAMES"
# Of requests that were read far enough to know.
MODEL = "mdel.model"
_FREE = ("/health",)
_CLIENT_LEFT = 499


class Door:
    """An ASGI application that passes on to ``app`` what may be asked, and counts all of it.

    `is_closing` refuses whatever comes from then on; `num_inside` requests are being answered.
    """

    def __init__(
        self, app: ASGIApp, *, keys: ApiKeys, limits: Limits, meters: Meters, names: list[str]
    ) -> None:
        self.app = app
        self.is_closing = False
        self.num_inside = 0
        self._keys = keys
        self._limits = limits
        self._meters = meters
        self._guard = RequestGuard(app, names=names, variable=NAMES_VARIABLE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        answer = _Answer(send)
        self.num_inside += 1
        try:
            if refusal := self._refusal(scope):
                _log.info("refused %s %s: %s", scope["method"], scope["path"], refusal.code)
                await send_refusal(refusal, answer.send)
            else:
                await self.app(scope, receive, answer.send)
        finally:
            self.num_inside -= 1
            model = scope.get(MODEL, "")
            status = answer.status if answer.is_whole else _CLIENT_LEFT
            self._meters.requests.labels(model, str(status)).inc()
            if model:
                self._meters.request_seconds.labels(model).observe(time.monotonic() - began)

    def _refusal(self, scope: Scope) -> RefusedRequestError | None:
        if reason := self._guard.refusal(scope):
            return RefusedRequestError(f"Refused: {reason}", status=403, code="foreign_request")
        if scope["path"] in _FREE:
            return None
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        if not self._keys.let_in(headers.get(b"authorization", "")):
            message = "An API key is needed: send the header 'Authorization: Bearer KEY'."
            return RefusedRequestError(message, status=401, code="invalid_api_key")
        if scope["method"] != "POST":
            return None
        if self.is_closing:
            return ending()
        room = self._limits.max_running + self._limits.max_waiting
        if self.num_inside > room:
            message = f"{room} requests are being answered already. Ask again later."
            return RefusedRequestError(message, status=429, code="too_many_requests")
        length = headers.get(b"content-length", "")
        if length.isdigit() and int(length) > self._limits.max_body_bytes:
            return _too_large(self._limits)
        return None


class _Answer:
    """Watches what is sent: the status, and whether all of it was."""

    def __init__(self, send: Send) -> None:
        self.status = 500
        self.is_whole = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_whole = True


async def read_whole(request: Request, limits: Limits) -> bytes:
    """Return a request's body.

    Raises:
        RefusedRequestError: it is larger than ``max_body_bytes``, or slower than ``body_seconds``.

    """
    content = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.stream():
                content += piece
                if len(content) > limits.max_body_bytes:
                    raise _too_large(limits)
    except TimeoutError as error:
        message = f"The body did not arrive within {limits.body_seconds:.0f} s."
        raise RefusedRequestError(message, status=408, code="body_timeout") from error
    return bytes(content)


async def send_refusal(refusal: RefusedRequestError, send: Send) -> None:
    """Answer with an error object."""
    body = json.dumps(refusal.content()).encode()
    headers = {"content-type": "application/json"} | refusal.headers()
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _too_large(limits: Limits) -> RefusedRequestError:
    message = f"The body is larger than {limits.max_body_bytes:,} bytes, which is the limit here."
    return RefusedRequestError(message, status=413, code="body_too_large")
