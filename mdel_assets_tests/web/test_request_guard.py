"""The guard of the web UI, request by request; in `browser/test_web_ui.py` a browser sends some."""

import asyncio

import pytest

from mdel_assets.web.request_guard import RequestGuard, names_from

MUTATION = "query=mutation{launchRun(executionParams:{}){__typename}}"


def ask(method="GET", path="/graphql", query="", *, kind="http", names=(), **headers):
    """Return the status and text that a request is answered with."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:3000"} | headers
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items() if v],
    }
    asyncio.run(RequestGuard(app, names=names)(scope, None, send))
    if kind == "websocket" and sent[0]["type"] == "websocket.close":
        return sent[0]["code"], sent[0]["reason"]
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"method": "POST"},
        {"method": "POST", "origin": "http://127.0.0.1:3000"},
        {"host": "localhost:3000", "origin": "http://localhost:3000"},
        {"host": "[::1]:3000"},
        {"host": "192.168.1.7:3000"},
        {"query": "query={runs{id}}"},
        {"query": "query=query Runs {version} fragment F on Run {id}"},
        {"query": "query=mutation{"},
        {"path": "/runs", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"path": "/assets", "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"},
        {
            "host": "mdel.example.org",
            "origin": "https://mdel.example.org",
            "names": ["MDEL.example.org"],
        },
        {
            "host": "webserver:3000",
            "origin": "https://mdel.example.org",
            "names": ["webserver", "mdel.example.org"],
        },
        {"kind": "websocket", "origin": "http://127.0.0.1:3000"},
    ],
)
def test_what_may_be_asked_is_answered(request_):
    assert ask(**request_) == (200, "done")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"host": "evil.example:3000"}, "evil.example:3000, which is not this server's name"),
        ({"host": "localhost.evil.example"}, "not this server's name"),
        ({"host": "127.0.0.1.evil.example"}, "not this server's name"),
        ({"host": "[::1"}, "not this server's name"),
        ({"host": ""}, "it asks for no name"),
        (
            {"method": "POST", "origin": "http://evil.example"},
            "another origin, http://evil.example",
        ),
        ({"method": "POST", "origin": "null"}, "another origin, null"),
        ({"method": "POST", "origin": "http://["}, "another origin"),
        ({"method": "POST", "origin": "http://127.0.0.1:8000"}, "another origin"),
        ({"method": "POST", "origin": "http://localhost:3000"}, "another origin"),
        ({"kind": "websocket", "origin": "http://evil.example"}, "another origin"),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, "a page of another origin"),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}, "a page of another origin"),
        ({"query": MUTATION}, "by POST"),
        ({"method": "HEAD", "query": MUTATION}, "by POST"),
        ({"query": "query={version}&" + MUTATION}, "by POST"),
        ({"query": "query=query A{version} mutation B{x}&operationName=B"}, "by POST"),
        ({"query": "query=%6Dutation%7Bx%7D"}, "by POST"),
        (
            {"query": MUTATION, "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
            "by POST",
        ),
        ({"query": "query=subscription{x}"}, "by POST"),
    ],
)
def test_what_may_not_be_asked_is_refused_with_its_reason(request_, reason, caplog):
    status, text = ask(**request_)
    assert status in (403, 1008)
    assert reason in text
    assert "refused" in caplog.text


def test_names_come_from_the_environment():
    assert names_from({"MDEL_UI_NAMES": "webserver, mdel.example.org,"}) == [
        "webserver",
        "mdel.example.org",
    ]
    assert names_from({}) == []
