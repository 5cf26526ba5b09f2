"""What a worker is to make, and how it ended: both are files that its starter shares with it."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdel_assets import errors
from mdel_assets.errors import MdelError, TrainingInterruptedError, WorkerError
from mdel_assets.experiment.section import Section
from mdel_assets.store.durable_files import write_text_atomically
from mdel_assets.tracking import Mode


class WorkerSpec(Section):
    """What a worker is to make, where, and in how many processes together.

    ``kind`` and ``keys`` name the artifacts, of which it makes all or, where ``part`` is (number,
    count), does one of so many parts of the work. ``experiment`` is the whole of it, so that
    nothing depends on a file that may have changed since. ``store`` is the address of the object
    store that artifacts come from and go to, if there is one; its credentials are the job's own.
    """

    experiment: dict[str, Any]
    home: str
    store: str | None = None
    kind: str
    keys: tuple[str, ...]
    part: tuple[int, int] | None = None
    num_processes: int = 1
    max_seconds: float | None = None
    is_sharded: bool = False
    tracking_folder: str
    tracking_mode: Mode

    def is_written_at(self, path: Path) -> bool:
        """Whether the specification at ``path`` says the same, wherever the YAML lies by now."""
        try:
            earlier = WorkerSpec.model_validate_json(path.read_text("utf-8"))
        except (OSError, ValidationError):
            return False
        return self._without_place() == earlier._without_place()

    def _without_place(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        content["experiment"].pop("folder", None)
        return content

    def write(self, path: Path) -> None:
        """Write the specification, and forget how an earlier worker ended."""
        outcome_path(path).unlink(missing_ok=True)
        write_text_atomically(path, self.model_dump_json(indent=2))


def raise_outcome(path: Path, *, output: str = "its output") -> None:
    """Raise what the worker of the specification at ``path`` failed with.

    ``output`` names in messages the place of what the worker printed.

    Raises:
        MdelError: of the class, with the message and marked as the worker's error was.
        WorkerError: it failed with an error of another class, or ended without a word, as one does
            that is killed.

    """
    try:
        outcome = json.loads(outcome_path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise WorkerError(
            f"The worker was killed, or could not start; {output} says more. Run the same command "
            f"again: a training goes on from its last checkpoint."
        ) from None
    if outcome["error"] is None:
        return
    kind = getattr(errors, outcome["class"], None)
    if kind is None:
        raise WorkerError(
            f"The worker failed with {outcome['class']}: {outcome['error']}; {output} says more."
        )
    error: MdelError = kind(outcome["error"])
    error.is_transient = outcome.get("is_transient", False)
    if isinstance(error, TrainingInterruptedError):
        error.is_cancelled = outcome.get("is_cancelled", False)
    raise error


def write_outcome(path: Path, error: BaseException | None) -> None:
    """Write how the worker of the specification at ``path`` ended."""
    # Of an error that is declared elsewhere, what it is a kind of.
    known = [c for c in type(error).__mro__ if getattr(errors, c.__name__, None) is c]
    kind = None if error is None else (known or [type(error)])[0].__name__
    content = {
        "class": kind,
        "error": None if error is None else str(error) or str(kind),
        "is_transient": getattr(error, "is_transient", False),
        "is_cancelled": getattr(error, "is_cancelled", False),
    }
    write_text_atomically(outcome_path(path), json.dumps(content))


def outcome_path(path: Path) -> Path:
    """Return where the worker of the specification at ``path`` writes how it ended."""
    return path.with_suffix(".outcome.json")
