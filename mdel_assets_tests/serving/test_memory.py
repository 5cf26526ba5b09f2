"""What is loaded under a limit of memory, and how requests share a model."""

import pytest

from mdel_assets.generation.speakers import Speakers
from mdel_assets.serving.decoding import Decoder
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.orders import Order, Ticket
from mdel_assets.serving.refusals import RefusedRequestError
from mdel_assets.serving.room import Room
from mdel_assets_tests.waiting import wait_until


@pytest.fixture
def speakers(lineage):
    return Speakers(lineage)


def loaded(room):
    return sorted(name for name in ("seed", "expert-github", "dense") if room.holds(name))


def test_the_model_that_was_used_least_recently_is_let_go(speakers):
    sizes = {name: speakers.bytes_at_most(name) for name in ("seed", "expert-github", "dense")}
    room = Room(speakers, max_bytes=sizes["seed"] + sizes["expert-github"] + 1000)
    room.speaker("seed")
    room.speaker("expert-github")
    assert loaded(room) == ["expert-github", "seed"]
    room.speaker("seed")
    room.speaker("dense")
    assert loaded(room) == ["dense", "seed"]
    assert room.weight_bytes == speakers.held_bytes <= room.max_bytes


def test_a_model_with_running_sequences_is_not_let_go(speakers):
    room = Room(speakers, max_bytes=speakers.bytes_at_most("seed") + 400_000)
    seed = room.speaker("seed")
    assert room.set_aside(seed, 10)
    assert not room.set_aside(seed, 300)
    # What would not fit with nothing else, either, neither waits nor keeps others waiting.
    with pytest.raises(RefusedRequestError, match="--max-memory"):
        room.set_aside(seed, 10**6)
    room.give_back(seed, 10)
    assert room.cache_bytes == 0
    assert room.set_aside(seed, 300)


def test_a_long_sequence_sets_aside_what_its_padding_takes_of_others(speakers):
    room = Room(speakers, max_bytes=None)
    seed = room.speaker("seed")
    for length in (50, 50, 1000):
        room.set_aside(seed, length)
    assert room.cache_bytes == seed.cache_bytes([50, 50, 1000])
    assert room.cache_bytes > seed.cache_bytes([50, 50]) + seed.cache_bytes([1000])
    room.give_back(seed, 1000)
    assert room.cache_bytes == seed.cache_bytes([50, 50])


def test_a_model_larger_than_the_limit_is_refused(speakers):
    room = Room(speakers, max_bytes=1000)
    with pytest.raises(RefusedRequestError, match="--max-memory") as refused:
        room.speaker("seed")
    assert refused.value.status == 503
    # OpenAI's client tries again for the status, unless it is told not to.
    assert refused.value.headers() == {"x-should-retry": "false"}


def test_what_cannot_fit_lets_go_of_nothing(speakers):
    room = Room(speakers, max_bytes=speakers.bytes_at_most("seed") + 20_000)
    seed = room.speaker("seed")
    for ask in (lambda: room.speaker("ensemble-uniform"), lambda: room.set_aside(seed, 10**6)):
        with pytest.raises(RefusedRequestError, match="--max-memory"):
            ask()
        assert loaded(room) == ["seed"]


def test_what_models_share_counts_once(speakers):
    room = Room(speakers, max_bytes=None)
    room.speaker("expert-github")
    alone = room.weight_bytes
    room.speaker("expert-arxiv")
    # Of three layers the first is the seed's, and so are both embeddings.
    assert alone < room.weight_bytes < 2 * alone


def order(model, *, max_new_tokens):
    return Order(
        model=model,
        prompt_ids=(5, 6, 7),
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        top_p=1.0,
        seed=0,
    )


def test_a_model_that_has_to_wait_for_room_gets_its_turn(lineage, speakers):
    """Sequences of the model that is loaded keep coming: those behind the one that waits wait."""
    size = speakers.bytes_at_most("seed")
    meters, ended = Meters(), []
    limits = Limits(max_memory_bytes=size + 300_000, max_running=4, max_new_tokens=1000)
    news = []
    decoder = Decoder(speakers, limits=limits, meters=meters, tell=news.extend)
    names = ["seed", "seed", "expert-github", "seed"]
    tickets = [Ticket(order(name, max_new_tokens=40), receive=ended.append) for name in names]
    decoder.submit(tickets)
    decoder.start()
    try:
        wait_until(lambda: sum(bool(n.finish_reason) for _, n in news) == 4, every=0.01)
    finally:
        decoder.stop()
    ends = [tickets.index(ticket) for ticket, piece in news if piece.finish_reason]
    assert sorted(ends[:2]) == [0, 1]
    assert ends[2:] == [2, 3]
