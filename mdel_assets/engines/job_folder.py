"""The folder that both sides of a job share: the one that submits it and the one that runs it.

spec.json          what the worker is to make
spec.outcome.json  how it ended
note.json          the job of the last submission, until it is known to have ended
asked, answered    the check that both sides see the same folder
messages.jsonl     what the worker tells Dagster, as Pipes writes it
output.log         whatever else the job printed
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from mdel_assets.engines.worker_spec import WorkerSpec, has_outcome
from mdel_assets.store.durable_files import write_text_atomically


@dataclasses.dataclass(frozen=True)
class Note:
    """Which job works in a folder, and whether it was told to end."""

    engine: str
    submission: str
    index: int = 0
    job: str = ""
    is_cancelled: bool = False


@dataclasses.dataclass(frozen=True)
class JobFolder:
    """The files of one artifact's jobs, one job at a time."""

    path: Path

    @property
    def spec(self) -> Path:
        """The worker's specification."""
        return self.path / "spec.json"

    @property
    def messages(self) -> Path:
        """What the worker tells Dagster, one JSON object per line."""
        return self.path / "messages.jsonl"

    @property
    def output(self) -> Path:
        """What the job printed."""
        return self.path / "output.log"

    @property
    def asked(self) -> Path:
        """What the side that submits has written for the job to read."""
        return self.path / "asked"

    @property
    def answered(self) -> Path:
        """What the job has written for the side that submits to read."""
        return self.path / "answered"

    @property
    def _note(self) -> Path:
        return self.path / "note.json"

    def prepare(self, spec: WorkerSpec, note: Note) -> None:
        """Make ready for a new job; nothing of an earlier one stays."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in (self.messages, self.output, self.answered):
            path.unlink(missing_ok=True)
        spec.write(self.spec)
        self.write_note(note)
        write_text_atomically(self.asked, token(note.submission, note.index))

    def note(self) -> Note | None:
        """Return which job of an earlier run may work here still."""
        try:
            content: dict[str, Any] = json.loads(self._note.read_text("utf-8"))
        except FileNotFoundError:
            return None
        return Note(**content)

    def write_note(self, note: Note) -> None:
        """Keep ``note`` for a later run to find."""
        write_text_atomically(self._note, json.dumps(dataclasses.asdict(note)))

    def forget_note(self) -> None:
        """Say that no job works here any more."""
        self._note.unlink(missing_ok=True)

    def has_spec(self, spec: WorkerSpec) -> bool:
        """Whether the last job was to make exactly what ``spec`` says."""
        return spec.is_written_at(self.spec)

    def answer(self, note: Note) -> str | None:
        """Return the host that answered for the job of ``note``, or nothing so far."""
        look_again(self.path, within=self.path)
        try:
            seen, host = self.answered.read_text("utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        return host if seen == token(note.submission, note.index) else None

    def has_outcome(self) -> bool:
        """Whether the worker wrote how it ended."""
        look_again(self.path, within=self.path)
        return has_outcome(self.spec)

    def last_output(self, *, num_lines: int = 5) -> str:
        """Return the end of what the job printed, on one line."""
        try:
            text = self.output.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return " / ".join(line.strip() for line in text.splitlines()[-num_lines:])


def look_again(folder: Path, *, within: Path) -> None:
    """Have a network file system ask its server, not its memory, what is on the way to ``folder``.

    Listing a folder does that; a name that was looked for in vain may else stay unknown for long.
    """
    between = [path for path in folder.parents if path.is_relative_to(within)]
    for path in [*reversed(between), folder]:
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            next(entries, None)


def token(submission: str, index: int) -> str:
    """Return what both sides of a job write to show that they share a folder."""
    return f"{submission}-{index}"


class Tail:
    """A file that another process, perhaps on another machine, writes line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def new_lines(self) -> list[str]:
        """Return the whole lines that were added since this was last asked.

        The file is opened anew each time: only that makes a network file system look.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()
