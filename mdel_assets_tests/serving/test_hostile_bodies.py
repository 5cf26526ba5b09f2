"""Bodies that no honest client sends: each is refused with a 4xx that says why."""

import asyncio
import contextlib
import json
import resource

import httpx
import pytest

from mdel_assets_tests.serving.conftest import ENDLESS, LOOPING, running
from mdel_assets_tests.waiting import wait_until

GOOD = {"model": "seed", "prompt": "def", "max_tokens": 2}
MIB = b" " * 2**20


def with_field(**fields):
    return json.dumps(GOOD | fields).encode()


@pytest.mark.parametrize(
    ("content", "status", "told"),
    [
        (b"", 400, "EOF"),
        (b"null", 400, "object"),
        (b"\xff\xfe{}", 400, "JSON"),
        (b"[" * 100_000, 400, "recursion"),
        (b'{"model": "seed", "prompt": "a", "metadata": ' + b'{"a": ' * 900, 400, "recursion"),
        (with_field(model=7), 400, "model"),
        (with_field(model="sede"), 404, "Did you mean 'seed'"),
        (with_field(model="../seed"), 404, "Unknown model"),
        (with_field(model="m" * 10_000), 404, "Unknown model"),
        (with_field(prompt=None), 400, "prompt"),
        (with_field(prompt=[]), 400, "prompt"),
        (with_field(prompt=[[]]), 400, "prompt"),
        (with_field(prompt=[1, "a"]), 400, "prompt"),
        (with_field(prompt=[True]), 400, "prompt"),
        (with_field(prompt=[-1]), 400, "prompt"),
        (with_field(prompt=[10**6]), 400, "ids go up to 319"),
        (with_field(prompt=[2**70]), 400, "prompt"),
        (with_field(prompt={"text": "a"}), 400, "prompt"),
        (with_field(prompt=["a"] * 17), 400, "17 texts"),
        (with_field(prompt="a", n=2**62), 400, "are written for one request at most"),
        (with_field(n=0), 400, "n:"),
        (with_field(n=-1), 400, "n:"),
        (with_field(max_tokens=-1), 400, "max_tokens"),
        (with_field(max_tokens=1.5), 400, "max_tokens"),
        (with_field(max_tokens="many"), 400, "max_tokens"),
        (with_field(max_tokens=10**9), 400, "max_tokens"),
        (with_field(model="expert-github", max_tokens=100), 400, "64 tokens at most"),
        (with_field(temperature=-0.1), 400, "temperature"),
        (with_field(temperature=float("nan")), 400, "temperature"),
        (with_field(temperature=float("inf")), 400, "temperature"),
        (with_field(temperature="0"), 400, "temperature"),
        (with_field(top_p=0), 400, "top_p"),
        (with_field(top_p=float("nan")), 400, "top_p"),
        (with_field(seed=-1), 400, "seed"),
        (with_field(seed=2**80), 400, "seed"),
        (with_field(logprobs=-1), 400, "logprobs"),
        (with_field(logprobs=10**6), 400, "20 are told"),
        (with_field(stop=["a"] * 5), 400, "stop"),
        (with_field(stop=""), 400, "stop"),
        (with_field(stop="a" * 10_000), 400, "stop"),
        (with_field(stream="yes"), 400, "stream"),
        (with_field(frequency_penalty=0.5), 400, "not supported"),
        (with_field(best_of=3), 400, "not supported"),
        (with_field(temprature=0.5), 400, "Did you mean 'temperature'"),
        (with_field(domain="nowhere", model="ensemble-label"), 400, "nowhere"),
        (b'{"model": "seed", "prompt": "\\ud800"}', 400, "JSON"),
        (b'{"model": "seed", "prompt": "a", "temperature": 1e999}', 400, "temperature"),
        (b'{"model": "seed", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "JSON"),
    ],
)
def test_what_cannot_be_answered_is_refused(server, content, status, told):
    answer = server.post(content)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert told in error["message"]
    assert len(error["message"]) < 600
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "ensemble-label", "domain": "nowhere"}, "domain"),
        ({"model": "ensemble-label"}, "domain"),
        ({"prompt": [10**6]}, "prompt"),
    ],
)
def test_the_field_that_is_wrong_is_named(server, fields, param):
    assert server.post(GOOD | fields).json()["error"]["param"] == param


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "user"}],
        [{"role": 3, "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///"}}]}],
        [{"role": "user", "content": "a", "tool_calls": []}],
    ],
)
def test_chats_are_checked_likewise(server, messages):
    content = {"model": "seed", "messages": messages}
    answer = server.post(content, path="/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")


def answer_on(connection):
    """Return all that the server sends: a connection that it ends may be broken off."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(4096):
            found += piece
    return found


@pytest.mark.parametrize(
    ("header", "before", "after", "last"),
    [
        (f"content-length: {100 * len(MIB)}", b"", b"", b""),
        ("transfer-encoding: chunked", b"100000\r\n", b"\r\n", b"0\r\n\r\n"),
    ],
    ids=["told", "untold"],
)
def test_a_body_of_100_megabytes_is_refused_and_not_kept(server, header, before, after, last):
    peak = peak_memory()
    with server.connect(header) as connection:
        # The server may close before it has all of it.
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(before + MIB + after)
            connection.sendall(last)
        answer = answer_on(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer
    assert peak_memory() - peak < 50 * 2**20
    assert server.post(GOOD).status_code == 200


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_body_that_does_not_arrive_is_not_waited_for(lineage):
    with (
        running(lineage, body_seconds=0.2) as server,
        server.connect("content-length: 100") as connection,
    ):
        connection.sendall(b"{")
        assert answer_on(connection).startswith(b"HTTP/1.1 408 ")


def test_who_leaves_before_the_body_is_sent_is_no_failure_of_the_server(server):
    def counted():
        return [
            server.meter("mdel_requests_total", model="", status=status)
            for status in ("499", "500")
        ]

    left, failed = counted()
    with server.connect("content-length: 100") as connection:
        connection.sendall(b"{")
    wait_until(lambda: sum(counted()) == left + failed + 1, every=0.01)
    assert counted() == [left + 1, failed]


def test_a_prompt_that_is_too_long_is_refused_before_any_model_is_loaded(lineage):
    with running(lineage, max_prompt_tokens=10) as server:
        answer = server.post(GOOD | {"prompt": "def " * 100})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "prompt_too_long"
        assert server.meter("mdel_models_loaded") == 0


def test_paths_and_methods_that_do_not_exist_are_refused_likewise(server):
    for method, path, status in [
        ("GET", "/v2/models", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/docs", 404),
        ("GET", "/v1/models/..%2f..%2fetc", 404),
    ]:
        answer = httpx.request(method, f"{server.url}{path}", timeout=60)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_names_and_origins_of_others_are_refused(lineage):
    with running(lineage, names=["serve"]) as server:
        assert server.get("/health", headers={"host": "serve:8000"}).status_code == 200
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            answer = server.get("/health", headers=headers)
            assert answer.status_code == 403
            assert "MDEL_SERVE_NAMES" in answer.json()["error"]["message"]


def test_metrics_have_no_label_that_a_request_made_up(server):
    server.post(GOOD | {"model": "made-up-by-a-request"})
    text = server.get("/metrics").text
    assert "made-up-by-a-request" not in text
    assert 'mdel_requests_total{model="",status="404"}' in text


def test_more_than_the_queue_holds_is_told_to_come_again(lineage):
    async def ask(server):
        async with httpx.AsyncClient(timeout=60) as client:
            endless = GOOD | LOOPING | {"stream": True, "n": 2}
            address = f"{server.url}/v1/completions"
            async with client.stream("POST", address, json=endless) as first:
                # Kept until the end: an iterator that nobody holds closes the connection.
                lines = first.aiter_lines()
                await anext(lines)
                # Its own sequences waited, too, for a moment.
                while server.meter("mdel_sequences_waiting"):
                    await asyncio.sleep(0.01)
                waiting = asyncio.create_task(client.post(address, json=GOOD | {"n": 2}))
                while server.meter("mdel_sequences_waiting") < 2:
                    await asyncio.sleep(0.01)
                refused = await client.post(address, json=GOOD | {"n": 2})
                await lines.aclose()
            return refused, await waiting

    with running(lineage, max_new_tokens=ENDLESS, max_running=2, max_waiting=3) as server:
        refused, waited = asyncio.run(ask(server))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert refused.headers["retry-after"]
    assert waited.status_code == 200
    assert len(waited.json()["choices"]) == 2
