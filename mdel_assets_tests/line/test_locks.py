"""The same artifact asked for twice in one moment is made once."""

import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.line.locks import making
from mdel_assets.line.making import make_one
from mdel_assets_tests.waiting import wait_until

pytestmark = pytest.mark.in_use
SPAWN = multiprocessing.get_context("spawn")


def hold(artifact, is_held, may_end):
    with making(artifact):
        is_held.set()
        may_end.wait()


@pytest.fixture
def holder(lineage):
    """A process that holds the lock of the dataset of arxiv until ``may_end`` is set."""
    is_held, may_end = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(
        target=hold, args=(lineage.artifact("domain_dataset", "arxiv"), is_held, may_end)
    )
    process.start()
    assert is_held.wait(60)
    process.may_end = may_end
    yield process
    process.kill()
    process.join()


@pytest.fixture
def waiting(lineage, caplog):
    """A thread that waits for the same lock."""
    entered = threading.Event()

    def wait():
        with making(
            lineage.artifact("domain_dataset", "arxiv"),
            lineage.artifact("domain_dataset", "github"),
        ):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.entered = entered
    yield thread
    thread.join()


@pytest.mark.parametrize("is_killed", [False, True])
def test_another_waits_aloud_until_the_maker_ends_or_dies(holder, waiting, caplog, is_killed):
    waiting.start()
    wait_until(lambda: f"domain_dataset 'arxiv', which process {holder.pid} of" in caplog.text)
    assert not waiting.entered.is_set()
    holder.kill() if is_killed else holder.may_end.set()
    assert waiting.entered.wait(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_waiting(holder, lineage, number):
    class Teller(logging.Handler):
        def emit(self, record):
            os.kill(os.getpid(), number)

    logger, teller = logging.getLogger("mdel_assets.line.locks"), Teller()
    logger.addHandler(teller)
    try:
        with (
            pytest.raises(TrainingInterruptedError, match="Run the same command again") as raised,
            making(lineage.artifact("domain_dataset", "arxiv")),
        ):
            pass
    finally:
        logger.removeHandler(teller)
    assert number.name in str(raised.value)
    assert raised.value.is_cancelled == (number == signal.SIGINT)


def test_who_wants_several_does_not_block_who_wants_them_in_another_order(lineage):
    domains = ["github", "arxiv", "freelaw"]

    def take(order):
        for _ in range(50):
            with making(*(lineage.artifact("domain_dataset", domain) for domain in order)):
                pass

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(take, domains), threads.submit(take, domains[::-1])]:
            done.result(timeout=60)


def test_a_step_taken_twice_at_once_makes_its_artifact_once(lineage, home, caplog):
    caplog.set_level(logging.INFO)
    key = lineage.experiment.shards()[0].key
    make_one(lineage, "raw_pile_shard", key)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: make_one(lineage, "shard_documents", key), range(2))
    assert first.files == second.files
    assert caplog.text.count("shard_documents '00' is made") == 1
    assert caplog.text.count("shard_documents '00' is up to date") == 1
