"""The folder that both sides of a job share: the submitting process and the worker.

spec.json          the specification of what the worker makes
spec.outcome.json  the outcome
note.json          the job of the last submission, until it is known to have ended
asked, answered    the check that both sides see the same folder
messages.jsonl     the worker's messages to Dagster, written by Pipes
output.log         all other output of the job
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from mdel_assets.engines.worker_spec import WorkerSpec, outcome_path
from mdel_assets.errors import WorkerError
from mdel_assets.store.durable_files import write_text_atomically


@dataclasses.dataclass(frozen=True)
class Note:
    """The job that works in a folder, and whether it was told to end."""

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
        """The worker's messages to Dagster, one JSON object per line."""
        return self.path / "messages.jsonl"

    @property
    def output(self) -> Path:
        """The job's output."""
        return self.path / "output.log"

    @property
    def asked(self) -> Path:
        """The file that the submitting side writes for the job to read."""
        return self.path / "asked"

    @property
    def answered(self) -> Path:
        """The file that the job writes for the submitting side to read."""
        return self.path / "answered"

    @property
    def _note(self) -> Path:
        return self.path / "note.json"

    def prepare(self, spec: WorkerSpec, note: Note) -> None:
        """Prepare the folder for a new job; remove the files of an earlier one."""
        self.path.mkdir(parents=True, exist_ok=True)
        for path in (self.messages, self.output, self.answered):
            path.unlink(missing_ok=True)
        spec.write(self.spec)
        self.write_note(note)
        write_text_atomically(self.asked, token(note.submission, note.index))

    def note(self) -> Note | None:
        """Return the note of a job that may still work here."""
        try:
            content: dict[str, Any] = json.loads(self._note.read_text("utf-8"))
        except FileNotFoundError:
            return None
        return Note(**content)

    def write_note(self, note: Note) -> None:
        """Store ``note`` for a later run to find."""
        write_text_atomically(self._note, json.dumps(dataclasses.asdict(note)))

    def forget_note(self) -> None:
        """Remove the note: no job works here any more."""
        self._note.unlink(missing_ok=True)

    def has_spec(self, spec: WorkerSpec) -> bool:
        """Whether the last job had exactly the specification ``spec``."""
        return spec.is_written_at(self.spec)

    def artifacts(self) -> set[tuple[str, str]]:
        """Return what the last job was to make: kinds and keys; nothing if that cannot be read."""
        try:
            content: dict[str, Any] = json.loads(self.spec.read_text("utf-8"))
            return {(content["kind"], key) for key in content["keys"]}
        except (OSError, ValueError, KeyError):
            return set()

    def answer(self, note: Note) -> str | None:
        """Return the host that answered for the job of ``note``; None if none has yet."""
        look_again(self.path, within=self.path)
        try:
            seen, host = self.answered.read_text("utf-8").split()
        except (FileNotFoundError, ValueError):
            return None
        return host if seen == token(note.submission, note.index) else None

    def has_outcome(self) -> bool:
        """Whether the worker wrote its outcome."""
        look_again(self.path, within=self.path)
        return outcome_path(self.spec).exists()

    def last_output(self, *, num_lines: int = 5) -> str:
        """Return the end of the job's output, on one line."""
        try:
            text = self.output.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return " / ".join(line.strip() for line in text.splitlines()[-num_lines:])


def folders_at_work(parent: Path, artifacts: set[tuple[str, str]]) -> list[JobFolder]:
    """Return the folders in ``parent`` of jobs that may still make some of ``artifacts``."""
    folders = [JobFolder(note.parent) for note in sorted(parent.glob("*/note.json"))]
    return [folder for folder in folders if folder.artifacts() & artifacts]


def refuse_foreign_note(folder: JobFolder, *, engine: str) -> None:
    """Refuse to work where another engine's job may be working.

    Raises:
        WorkerError: a note of another engine's job is there.

    """
    note = folder.note()
    if note is not None and note.engine != engine:
        raise WorkerError(
            f"Job {note.job or note.submission} of compute.engine {note.engine} may still work "
            f"here: its run was killed. Run once more with that engine, or make sure that the job "
            f"has ended and delete {folder.path / 'note.json'}."
        )


def look_again(folder: Path, *, within: Path) -> None:
    """Make a network file system ask its server again for the folders on the way to ``folder``.

    Listing a folder does this. Otherwise the client may cache for long that a name is missing.
    """
    between = [path for path in folder.parents if path.is_relative_to(within)]
    for path in [*reversed(between), folder]:
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            next(entries, None)


def token(submission: str, index: int) -> str:
    """Return the token that both sides of a job write to show that they share a folder."""
    return f"{submission}-{index}"


class Tail:
    """A file that another process, perhaps on another machine, writes line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def new_lines(self) -> list[str]:
        """Return the complete lines added since the last call.

        The file is reopened each time: only that makes a network file system look for changes.
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
