"""A guard in front of Dagster's own webserver, against requests of foreign pages.

The open-source webserver has no login and does not check the origin of requests. Any page in a
person's browser could make it start runs: by a GET request, by a form, or under a host name of the
page's own that points to this machine (DNS rebinding). The guard refuses requests from another
origin, requests for a host name that is not this server's, and mutations by GET. It asks for no
password: anyone who can reach the port can still do everything.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

_log = logging.getLogger(__name__)
NAMES_VARIABLE = "MDEL_UI_NAMES"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class RequestGuard:
    """An ASGI application that passes allowed requests on to ``app``.

    ``names`` are those under which a proxy, or another machine, reaches this server; addresses in
    digits and ``localhost`` go without saying. ``variable`` is where a user puts them.
    """

    def __init__(
        self, app: App, *, names: Collection[str] = (), variable: str = NAMES_VARIABLE
    ) -> None:
        self.app = app
        self.variable = variable
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse a request, or let the application answer it."""
        reason = self.refusal(scope) if scope["type"] in {"http", "websocket"} else ""
        if not reason:
            await self.app(scope, receive, send)
            return
        _log.warning("refused %s %s: %s", scope.get("method", "websocket"), scope["path"], reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"Refused: {reason}\n".encode()})

    def refusal(self, scope: Message) -> str:
        """Return why a request is refused, in one sentence; empty if it is allowed."""
        headers = _headers(scope)
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_ours(_host_name(hosts[0])):
            named = ", ".join(hosts) or "no name"
            return (
                f"it asks for {named}, which is not this server's name. Where a proxy or another "
                f"machine reaches it under that name, put it into {self.variable}."
            )
        for origin in headers.get("origin", []):
            place = origin.rpartition("://")[2].lower()
            if place != hosts[0].lower() and _host_name(place) not in self.names:
                return (
                    f"it comes from another origin, {origin}. Where that is a proxy's name, put it "
                    f"into {self.variable}."
                )
        sites, modes = headers.get("sec-fetch-site", []), headers.get("sec-fetch-mode", [])
        if {"cross-site", "same-site"} & set(sites) and modes != ["navigate"]:
            return "it comes from a page of another origin."
        if scope.get("method") in {"GET", "HEAD"} and _changes_something(scope):
            return "a mutation must be sent by POST."
        return ""

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def names_from(environment: Mapping[str, str], *, variable: str = NAMES_VARIABLE) -> list[str]:
    """Return the names that ``variable`` holds, with commas between them."""
    found = environment.get(variable, "").split(",")
    return [name.strip() for name in found if name.strip()]


def _headers(scope: Message) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in scope["headers"]:
        found.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _host_name(host: str) -> str:
    """Return the name of ``name:port``, without the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _changes_something(scope: Message) -> bool:
    """Whether a GraphQL document in the address holds anything but queries."""
    from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

    for text in parse_qs(scope.get("query_string", b"").decode("latin-1")).get("query", []):
        try:
            definitions = parse(text).definitions
        except GraphQLError:
            # Nothing that could be run.
            continue
        operations = [d for d in definitions if isinstance(d, OperationDefinitionNode)]
        if any(operation.operation != OperationType.QUERY for operation in operations):
            return True
    return False
