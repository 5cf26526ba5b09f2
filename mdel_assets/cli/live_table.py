"""The live table of a run on a terminal: a row for each asset of the line.

What libraries and steps print meanwhile, and the messages of failures, come as lines above it. When
the run ends, the whole table stays.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mdel_assets.cli.run_views import duration_in_short, outcome_in_words
from mdel_assets.machine.console import diverting_lines

if TYPE_CHECKING:
    from mdel_assets.defs.launch import RunOutcome, Stage

_REFRESHES_PER_SECOND = 2
# Heading, what is left, and the cursor's line.
_ROOM_BESIDE_ROWS = 4
_STYLES = {
    "running": "bold cyan",
    "made": "green",
    "up to date": "dim",
    "failed": "bold red",
    "skipped": "yellow",
    "absent": "dim",
}


@dataclasses.dataclass
class Row:
    """One asset of the line: how many of its partitions are in which state, and its time."""

    kind: str
    num_up_to_date: int = 0
    num_to_make: int = 0
    num_made: int = 0
    num_failed: int = 0
    num_skipped: int = 0
    seconds: float = 0.0
    started: float | None = None
    note: str = ""

    @property
    def state(self) -> str:
        """The state that matters most; empty before the run has come to the asset."""
        states = {
            "running": self.started is not None,
            "failed": self.num_failed,
            "skipped": self.num_skipped,
            "made": self.num_made,
            "up to date": self.num_up_to_date,
            "absent": self.note,
        }
        return next((state for state, holds in states.items() if holds), "")

    def cells(self, now: float) -> list[str]:
        """Return the row's cells, in the order of the headings."""
        seconds = self.seconds if self.started is None else now - self.started
        counts = [self.num_up_to_date, self.num_made, self.num_failed, self.num_skipped]
        made = str(self.num_made or "")
        if self.started is not None:
            made = f"{self.num_made} of {self.num_to_make}"
        shown = [str(count or "") for count in counts]
        time_in_words = f"{seconds:.1f} s" if seconds else ""
        return [self.kind, self.state, shown[0], made, *shown[2:], time_in_words, self.note]


_HEADINGS = ("asset", "state", "up to date", "made", "failed", "skipped", "time", "")


class LineTable:
    """The rows of a run, and which of them it is at."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.rows = {kind: Row(kind) for kind in kinds}
        self.seconds_left: float | None = None
        self._current: Row | None = None
        self._begun = time.monotonic()

    def note_stage(self, stage: "Stage") -> None:
        """Note that a kind is made now."""
        self.end_stage()
        self._current = self.rows[stage.kind]
        self._current.num_to_make, self._current.started = stage.num_to_make, time.monotonic()
        self.seconds_left = stage.seconds_left

    def note_start(self, kind: str, key: str) -> None:
        """Note which partition is made now."""
        self.rows[kind].note = key

    def note(self, outcome: "RunOutcome") -> None:
        """Note how a run ended, or why there was none."""
        if self._current and outcome.kind != self._current.kind:
            self.end_stage()
        row = self.rows.get(outcome.kind)
        if row is None:
            return
        if outcome.state == "up to date":
            row.num_up_to_date += len(outcome.keys)
        elif outcome.state == "skipped":
            row.num_skipped += len(outcome.not_made)
        elif outcome.state == "absent":
            row.note = f"{outcome.key} absent"
        else:
            row.num_made += len(outcome.keys) - len(outcome.not_made)
            row.num_failed += len(outcome.not_made)

    def end_stage(self) -> None:
        """Note that nothing is made at the moment."""
        if self._current and self._current.started is not None:
            self._current.seconds = time.monotonic() - self._current.started
            self._current.started, self._current.note = None, ""
        self._current = None

    def table(self, rows: Sequence[Row]) -> Table:
        """Return ``rows`` with their headings."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for place, heading in enumerate(_HEADINGS):
            is_count = 2 <= place <= 6
            table.add_column(heading, justify="right" if is_count else "left", no_wrap=True)
        now = time.monotonic()
        for row in rows:
            table.add_row(*map(Text, row.cells(now)), style=_STYLES.get(row.state, ""))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the rows that the terminal has room for, around what is made now."""
        rows = list(self.rows.values())
        room = max(console.size.height - _ROOM_BESIDE_ROWS, 1)
        if len(rows) > room:
            place = rows.index(self._current) if self._current else self._num_reached - 1
            end = min(max(place + min(room, 2), room), len(rows))
            rows = rows[end - room : end]
        yield self.table(rows)
        yield Text(", ".join(self._caption()), style="dim", no_wrap=True, overflow="ellipsis")

    @property
    def _num_reached(self) -> int:
        return sum(bool(row.state) for row in self.rows.values())

    def _caption(self) -> Iterator[str]:
        yield f"asset {self._num_reached} of {len(self.rows)}"
        yield duration_in_short(time.monotonic() - self._begun)
        if self.seconds_left:
            yield f"trainings take about {duration_in_short(self.seconds_left)} more"


class _Terminal(Console):
    """The terminal behind a descriptor, which keeps its cursor.

    No end of this process, be it by SIGKILL, can then leave a terminal without one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        super().__init__(file=os.fdopen(descriptor, "w", encoding="utf-8"), highlight=False)

    @property  # type: ignore[misc]  # nothing sets it
    def size(self) -> ConsoleDimensions:
        """The terminal's size, which other streams may not tell."""
        width, height = os.get_terminal_size(self._descriptor)
        return ConsoleDimensions(width or 80, height or 25)

    def show_cursor(self, show: bool = True) -> bool:  # noqa: FBT001, FBT002
        """Do nothing."""
        return False


class LiveTable:
    """Shows a run as a table that is kept up to date."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._table = LineTable(kinds)
        self._until_end = ExitStack()
        self._terminal: _Terminal | None = None

    def begin(self, experiment: str, root: Path) -> None:
        """Say which experiment runs, and the home it is in."""
        click.echo(f"Experiment '{experiment}' in {root}")

    def show_stage(self, stage: "Stage") -> None:
        """Show that a kind is made now."""
        self._table.note_stage(stage)

    def show_start(self, kind: str, key: str) -> None:
        """Show which partition is made now."""
        self._table.note_start(kind, key)

    def show(self, outcome: "RunOutcome") -> None:
        """Count an outcome in its row; say above the table what else there is to say of it."""
        self._table.note(outcome)
        if outcome.state != "up to date" and (outcome.message or outcome.state == "failed"):
            self._print(outcome_in_words(outcome))
        if outcome.message and outcome.state in ("made", "failed"):
            self._print(f"    {outcome.message}")

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._terminal = _Terminal(os.dup(1))
        self._until_end.callback(self._terminal.file.close)
        self._until_end.callback(self._show_whole)
        live = Live(
            self._table,
            console=self._terminal,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._until_end.enter_context(live)
        shown_here = [1, 2] if sys.stderr.isatty() else [1]
        self._until_end.enter_context(diverting_lines(shown_here, self._print))
        return self

    def __exit__(self, *_: object) -> None:
        self._table.end_stage()
        self._until_end.close()

    def _print(self, line: str) -> None:
        assert self._terminal
        self._terminal.print(Text.from_ansi(line))

    def _show_whole(self) -> None:
        assert self._terminal
        self._terminal.print(self._table.table(list(self._table.rows.values())))
