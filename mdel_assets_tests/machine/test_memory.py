"""Memory that is given back."""

import gc
import os
import sys
from types import ModuleType

import psutil

from mdel_assets.machine.memory import give_memory_back, spare_libraries


class Circle:
    """Something large that refers to itself."""

    def __init__(self):
        self.own = self
        self.content = [bytes([number % 251]) * 500 for number in range(400_000)]


def test_what_refers_to_itself_is_given_back_to_the_system():
    process = psutil.Process(os.getpid())
    give_memory_back()
    before = process.memory_info().rss
    Circle()
    held = process.memory_info().rss - before
    assert held > 90e6
    give_memory_back()
    assert process.memory_info().rss - before < 0.2 * held


def test_libraries_are_spared_once_and_what_comes_after_them_is_given_back(monkeypatch):
    for number in range(100):
        monkeypatch.setitem(sys.modules, f"library.part_{number}", ModuleType("part"))
    try:
        spare_libraries()
        spared = gc.get_freeze_count()
        assert spared > 10_000
        later = [[] for _ in range(1000)]
        spare_libraries()
        assert gc.get_freeze_count() <= spared
        assert any(one is later for one in gc.get_objects())
        test_what_refers_to_itself_is_given_back_to_the_system()
    finally:
        gc.unfreeze()
