"""Memory that is given back."""

import gc
import os

import psutil

from mdel_assets.machine.memory import collect_garbage, give_memory_back


class Circle:
    """Something large that refers to itself."""

    def __init__(self):
        self.own = self
        self.content = [bytes([number % 251]) * 500 for number in range(200_000)]


def test_what_refers_to_itself_is_given_back_to_the_system():
    process = psutil.Process(os.getpid())
    give_memory_back()
    before = process.memory_info().rss
    Circle()
    held = process.memory_info().rss - before
    assert held > 90e6
    give_memory_back()
    assert process.memory_info().rss - before < 0.2 * held


def test_a_process_that_has_not_grown_is_left_alone():
    collect_garbage()
    before = gc.get_stats()[2]["collections"]
    assert not collect_garbage()
    assert gc.get_stats()[2]["collections"] == before
    held = bytearray(150 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert collect_garbage()
    assert not collect_garbage()
