"""How a server ends: what runs may finish, what comes is refused, and nothing hangs."""

import json
import os
import signal

import httpx
import openai
import pytest

from mdel_assets_tests import warm_python
from mdel_assets_tests.serving.conftest import ENDLESS, LOOPING, running

WHOLE = LOOPING | {"max_tokens": 400, "stream": True, "n": 8}


def test_what_runs_finishes_and_what_comes_is_told_to_come_again(lineage):
    """Nothing of the stream is read until then, so that it cannot be over before."""
    with running(lineage, grace_seconds=60.0) as server:
        body = json.dumps(WHOLE)
        address = f"{server.url}/v1/completions"
        with httpx.stream("POST", address, content=body, timeout=60) as stream:
            server.close_door()
            refused = server.post(LOOPING | {"max_tokens": 1})
            health = server.get("/health")
            lines = [line for line in stream.iter_lines() if line]
    assert refused.status_code == health.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert lines[-1] == "data: [DONE]"
    choices = [json.loads(line[6:])["choices"][0] for line in lines[:-1]]
    ends = [choice["index"] for choice in choices if choice["finish_reason"] == "length"]
    assert sorted(ends) == list(range(8))


def test_what_runs_longer_than_it_may_ends_with_an_error(lineage):
    with running(lineage, max_new_tokens=ENDLESS, grace_seconds=0.1) as server:
        client = server.client()
        stream = iter(client.completions.create(**LOOPING, stream=True))
        next(stream)
        server.close_door()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        client.close()


def test_an_answer_that_takes_too_long_is_given_up(lineage):
    with running(lineage, max_new_tokens=ENDLESS, request_seconds=0.5) as server:
        answer = server.post(LOOPING)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "answer_timeout"


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(environment):
    words = [*warm_python.MDEL, "serve", "--port=0"]
    with warm_python.start(words, env=os.environ | environment) as process:
        url = process.stdout.readline().split()[-1]
        models = httpx.get(f"{url}/models", timeout=60).json()["data"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "ensemble-uniform" in {model["id"] for model in models}
