"""The check of a raw shard: it names a damaged file, and reads none that was read already."""

import contextlib
import os
import shutil
import sys

import pytest

from mdel_assets.defs.data import _shard_is_whole
from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import flip_bit, pico_experiment
from mdel_assets_tests.defs.finished_line import materialize

pytestmark = pytest.mark.in_use
_opened = None


def _note(event, arguments):
    # What is opened by its descriptor alone, such as to sync it, has no mode.
    if event == "open" and _opened is not None and arguments[1] is not None:
        _opened.append(str(arguments[0]))


sys.addaudithook(_note)


@contextlib.contextmanager
def noting_what_is_read():
    """Yield the list of the files that are opened in the block, each as often as it is."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture
def old_corpus(corpus, tmp_path):
    """A corpus of one's own, whose files were not written just now."""
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    for path in folder.iterdir():
        os.utime(path, ns=(0, 0))
    return folder


def test_a_shard_is_read_once_in_its_first_run_and_not_at_all_in_the_next(old_corpus, home):
    experiment = pico_experiment(old_corpus)
    for num_times in (1, 0):
        with noting_what_is_read() as opened:
            done = materialize(experiment, home, "raw_pile_shard", "00")
        assert sum(path.endswith("00.jsonl.zst") for path in opened) == num_times
        (check,) = done.get_asset_check_evaluations()
        assert check.passed


def test_a_shard_that_changed_is_named_and_used_no_more(old_corpus, home):
    lineage = home.lineage(pico_experiment(old_corpus))
    record = make_one(lineage, "raw_pile_shard", "00")
    artifact = lineage.artifact("raw_pile_shard", "00")
    path = artifact.folder / record.details["file"]
    flip_bit(path)
    check = _shard_is_whole(record, artifact)
    assert not check.passed
    assert check.description.startswith(f"{path} has digest ")
    assert check.description.endswith(": materialize raw_pile_shard again.")
    flip_bit(path)
    assert "it failed its check shard_is_whole" in artifact.damage(record)
