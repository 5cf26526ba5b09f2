"""The live table of ``mdel run``: its rows, and what it leaves on a terminal."""

import io
import re
import sys

import pytest
from rich.console import Console

from mdel_assets.cli.live_table import LineTable
from mdel_assets.defs.launch import RunOutcome, Stage
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets_tests.cli.terminal import Terminal
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.defs.running_dagster import environment
from mdel_assets_tests.warm_python import MDEL

COMMAND = [sys.executable, "-W", "ignore", *MDEL, "run", "--until", "shard_documents"]
KINDS = ["raw_pile_shard", "shard_documents", "domain_dataset", "seed_model", "expert_model"]


def shown(table, *, height=20):
    """Return the words of each line that a terminal shows of a table."""
    console = Console(file=io.StringIO(), width=120, height=height)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_rows_count_partitions_by_what_became_of_them():
    table = LineTable(KINDS)
    table.note(RunOutcome("raw_pile_shard", "3 of 4", "up to date", keys=("00", "01", "val")))
    table.note_stage(Stage("raw_pile_shard", 1, 5, 1, None))
    table.note(RunOutcome("raw_pile_shard", "test", "made", 2.0, keys=("test",)))
    table.note_stage(Stage("shard_documents", 2, 5, 4, None))
    both = {"keys": ("00", "01"), "not_made": ("01",)}
    table.note(RunOutcome("shard_documents", "01", "failed", 3.0, "no JSON", **both))
    table.note(RunOutcome("domain_dataset", "github", "skipped", not_made=("github", "arxiv")))
    table.note(RunOutcome("everything after that", "", "skipped", message="waits"))
    table.end_stage()
    rows = {words[0]: words[1:] for words in shown(table)}
    # State, counts and time, and no empty cell: columns are empty where nothing is to be counted.
    assert rows["raw_pile_shard"][:5] == ["made", "3", "1", "0.0", "s"]
    assert rows["shard_documents"][:4] == ["failed", "1", "1", "0.0"]
    assert rows["domain_dataset"] == ["skipped", "2"]
    assert rows["seed_model"] == rows["expert_model"] == []


def test_what_is_made_now_is_shown_with_how_many_are_left():
    table = LineTable(KINDS)
    table.note_stage(Stage("expert_model", 5, 5, 3, 200.0))
    table.note_start("expert_model", "github")
    table.note(RunOutcome("expert_model", "github", "made", 1.0, keys=("github",)))
    table.note_start("expert_model", "arxiv")
    *_, row, caption = shown(table)
    assert row == ["expert_model", "running", "1", "of", "3", "0.0", "s", "arxiv"]
    assert " ".join(caption).endswith("trainings take about 3 min more")


@pytest.mark.parametrize("height", [5, 6, 7])
def test_a_low_terminal_shows_the_rows_around_the_current_one(height):
    table = LineTable(KINDS)
    table.note_stage(Stage("shard_documents", 2, 5, 1, None))
    lines = shown(table, height=height)
    # One line is left for the cursor.
    assert len(lines) < height
    assert "running" in [words[1] for words in lines[1:-1] if len(words) > 1]


@pytest.fixture
def place(lineage, tmp_path):
    """Return the environment of a run that has the documents of two shards to make."""
    for key in ("00", "01", "val", "test"):
        make_one(lineage, "raw_pile_shard", key)
    for key in ("00", "01"):
        make_one(lineage, "shard_documents", key)
    return environment(lineage.experiment, MdelHome(lineage.root.parent), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_shows_the_table_once_below_what_was_printed(place, workers):
    terminal = Terminal([*COMMAND, "--workers", workers], env=place)
    assert terminal.end() == 0
    first, *printed, heading, shards, documents, done, empty, last = terminal.screen()
    assert first.startswith("Experiment 'pico' in ")
    assert sorted(line.split(".")[0].strip() for line in printed) == ["test", "val"]
    headings = ["asset", "state", "up to date", "made", "failed", "skipped", "time"]
    assert re.split(" {2,}", heading) == headings
    assert shards.split() == ["raw_pile_shard", "up", "to", "date", "4"]
    assert documents.split()[:4] == ["shard_documents", "made", "2", "2"]
    assert done.startswith("2 runs in ")
    assert (empty, last) == ("", "")
    # While it ran, it said what was made.
    assert "running" in terminal.seen


@pytest.mark.slow
def test_failures_and_what_waits_for_them_are_told_above_the_table(place, corpus, home, tmp_path):
    wrong = pico_experiment(corpus, source={"sha256": {"test": "0" * 64}})
    terminal = Terminal(
        [*COMMAND, "--workers", "1"], env=environment(wrong, home, tmp_path), columns=300
    )
    assert terminal.end() == 1
    lines = terminal.screen()
    row = [line.split()[:2] for line in lines].index(["raw_pile_shard", "failed"])
    # Three were there, one failed.
    assert lines[row].split()[2:4] == ["3", "1"]
    told = "\n".join(lines[:row])
    assert "failed      raw_pile_shard     test" in told
    assert "has sha256" in told
    assert "skipped     shard_documents    test" in told
    assert "Error: 1 failed: raw_pile_shard test; 1 more wait for these." in lines[row:]


@pytest.mark.slow
def test_ctrl_c_leaves_the_terminal_as_it_was(place):
    terminal = Terminal([*COMMAND, "--workers", "1"], env=place)
    terminal.read_until("running")
    terminal.press(b"\x03")
    assert terminal.end() == 1
    *_, last, _ = terminal.screen()
    assert last == "Error: Stopped. Finished work is kept: run the same command again to continue."
    assert "Traceback" not in terminal.seen
    # The cursor was never hidden, and no mode was set that an end by force would leave behind.
    assert "\x1b[?" not in terminal.seen


@pytest.mark.slow
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(place):
    terminal = Terminal(["env", "TERM=dumb", *COMMAND, "--workers", "1"], env=place)
    assert terminal.end() == 0
    assert "  made        shard_documents    test" in terminal.seen
    assert "\x1b" not in terminal.seen
