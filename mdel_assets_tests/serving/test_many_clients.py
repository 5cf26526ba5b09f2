"""Many clients at once, some of whom leave in the middle."""

import asyncio
import gc
import random

import openai

from mdel_assets.generation.sequences import TokenSequence
from mdel_assets_tests.serving.conftest import LOOPING
from mdel_assets_tests.waiting import wait_until

NUM_CLIENTS, NUM_REQUESTS = 16, 200
MODELS = ("seed", "expert-github", "ensemble-posterior-top2")
PROMPTS = ("def return", "theorem proof let", "court appeal", "import")


def asked_by(number):
    """Return the settings of one of the requests."""
    draw = random.Random(number)
    return {
        "model": draw.choice(MODELS),
        "prompt": draw.choice(PROMPTS),
        "max_tokens": draw.randint(4, 24),
        # Few tokens to draw from: a draw that rounding decides on is then next to impossible.
        "temperature": 0.7,
        "top_p": 0.5,
        "seed": number,
        "stream": draw.random() < 0.5,
    }


async def ask_whole(client, asked):
    """Return the text and the reason of its end."""
    answer = await client.completions.create(**asked)
    if not asked["stream"]:
        return answer.choices[0].text, answer.choices[0].finish_reason
    pieces = [piece async for piece in answer]
    return "".join(p.choices[0].text for p in pieces), pieces[-1].choices[0].finish_reason


async def leave_in_the_middle(client):
    stream = await client.completions.create(**LOOPING, stream=True)
    await anext(aiter(stream))
    await stream.close()


async def ask_all(url):
    numbers = iter(range(NUM_REQUESTS))
    whole, num_left = {}, 0

    async def work():
        nonlocal num_left
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            for number in numbers:
                if number % 10 == 7:
                    await leave_in_the_middle(client)
                    num_left += 1
                else:
                    whole[number] = await ask_whole(client, asked_by(number))

    await asyncio.gather(*(work() for _ in range(NUM_CLIENTS)))
    return whole, num_left


def test_of_200_requests_each_that_stays_is_answered_whole_and_nothing_is_left(server):
    reasons = {"model": "seed", "reason": "cancelled"}
    before = server.meter("mdel_sequences_ended_total", **reasons)
    whole, num_left = asyncio.run(ask_all(server.url))
    assert (len(whole), num_left) == (180, 20)
    wait_until(lambda: not server.meter("mdel_cache_bytes"), every=0.01)
    assert server.meter("mdel_sequences_ended_total", **reasons) == before + 20
    assert server.meter("mdel_sequences_waiting") == server.meter("mdel_sequences_running") == 0
    gc.collect()
    assert [each for each in gc.get_objects() if type(each) is TokenSequence] == []
    # Asked again, alone: what was decoded beside it changed nothing.
    with server.client() as client:
        for number in (0, 5, 50, 121, 199):
            alone = client.completions.create(**asked_by(number) | {"stream": False}).choices[0]
            assert whole[number] == (alone.text, alone.finish_reason), number
