"""How a run shows itself: plain lines, or JSON for programs; `live_table.py` has a third view."""

import dataclasses
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

import click

from mdel_assets.machine.console import alone_on_standard_output

if TYPE_CHECKING:
    from mdel_assets.defs.launch import RunOutcome, Stage


class RunView(Protocol):
    """Shows a run of the line. Entered while the run makes things; ``begin`` comes before."""

    def begin(self, experiment: str, root: Path) -> None:
        """Say which experiment runs, and the home it is in."""

    def show_stage(self, stage: "Stage") -> None:
        """Show that a kind has something to make."""

    def show_start(self, kind: str, key: str) -> None:
        """Show that a run begins."""

    def show(self, outcome: "RunOutcome") -> None:
        """Show how a run ended, or why there was none."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None: ...


class PlainLines:
    """A line for each event."""

    def begin(self, experiment: str, root: Path) -> None:
        """Say which experiment runs, and the home it is in."""
        click.echo(f"Experiment '{experiment}' in {root}")

    def show_stage(self, stage: "Stage") -> None:
        """Show how many there are to make."""
        left = ""
        if stage.seconds_left:
            left = f"; trainings take about {duration_in_short(stage.seconds_left)} more"
        click.echo(
            f"{stage.number}/{stage.num_stages} {stage.kind}: {stage.num_to_make} to make{left}"
        )

    def show_start(self, kind: str, key: str) -> None:
        """Say nothing: the line comes when the run has ended."""

    def show(self, outcome: "RunOutcome") -> None:
        """Show a line, with the error on standard error."""
        click.echo(f"  {outcome_in_words(outcome)}")
        if outcome.message and outcome.state in ("made", "failed"):
            click.echo(f"      {outcome.message}", err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def outcome_in_words(outcome: "RunOutcome") -> str:
    """Return an outcome as a line; without the message of what was made, or failed."""
    if outcome.state in ("up to date", "absent"):
        told = f": {outcome.message}" if outcome.message else ""
        return f"{outcome.state:10}  {outcome.kind:18} {outcome.key}{told}"
    if outcome.state == "skipped":
        return f"skipped     {outcome.kind:18} {outcome.key:28} {outcome.message}"
    return (
        f"{outcome.state:10}  {outcome.kind:18} {outcome.key:28} {outcome.elapsed_seconds:7.1f} s"
    )


def duration_in_short(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class JsonLines:
    """A JSON object for each event, a line each; nothing else comes on standard output.

    The ``event`` is ``begin``, ``stage``, ``start``, ``outcome`` or ``end``. The last one's
    ``state`` is ``made``, ``up to date``, ``failed`` or ``stopped`` (by Ctrl-C).
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._file: TextIO = sys.stdout
        self._until_end = ExitStack()
        self._num_made = self._num_waiting = 0
        self._failed: list[str] = []

    def begin(self, experiment: str, root: Path) -> None:
        """Print which experiment runs, and the home it is in."""
        self._print("begin", experiment=experiment, home=str(root))

    def show_stage(self, stage: "Stage") -> None:
        """Print a kind with something to make."""
        self._print("stage", **dataclasses.asdict(stage))

    def show_start(self, kind: str, key: str) -> None:
        """Print that a run begins."""
        self._print("start", kind=kind, key=key)

    def show(self, outcome: "RunOutcome") -> None:
        """Print how a run ended, or why there was none."""
        self._print("outcome", **dataclasses.asdict(outcome))
        self._num_made += outcome.state == "made"
        self._num_waiting += len(outcome.not_made) if outcome.state == "skipped" else 0
        if outcome.state == "failed":
            self._failed.append(f"{outcome.kind} {outcome.key}".strip())

    def __enter__(self) -> Self:
        self._file = self._until_end.enter_context(alone_on_standard_output())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        state = "made" if self._num_made else "up to date"
        if error is not None or self._failed:
            state = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        self._print(
            "end",
            state=state,
            num_made=self._num_made,
            failed=self._failed,
            num_waiting=self._num_waiting,
            elapsed_seconds=time.monotonic() - self._started,
        )
        self._until_end.close()

    def _print(self, event: str, **content: Any) -> None:
        click.echo(json.dumps({"event": event, **content}), file=self._file)
