"""The worker: makes one artifact in processes of its own: ``python -m mdel_assets.worker SPEC``.

Whatever starts it (torchrun, accelerate, a queue), it reads the same specification, takes the same
step and leaves the same artifact as the step's own process would. Its log goes to Dagster through
Pipes where Dagster started it, and to the terminal elsewhere. How it ended lies beside the
specification.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes
from pydantic import ValidationError

from mdel_assets import errors
from mdel_assets.console import show_log_lines
from mdel_assets.durable_files import write_text_atomically
from mdel_assets.errors import MdelError, WorkerError
from mdel_assets.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.making import make
from mdel_assets.line.processes import is_first_process, require_processes
from mdel_assets.section import Section
from mdel_assets.tracking import Mode, Tracker


class WorkerSpec(Section):
    """What a worker is to make, where, and in how many processes together.

    ``kind`` and ``key`` name the artifact; ``experiment`` is the whole of it, so that nothing
    depends on a file that may have changed since.
    """

    experiment: dict[str, Any]
    home: str
    kind: str
    key: str
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
        _outcome_path(path).unlink(missing_ok=True)
        write_text_atomically(path, self.model_dump_json(indent=2))


def run_worker(path: Path) -> None:
    """Make what the specification at ``path`` names.

    Raises:
        MdelError: the step's own; `TrainingError` where the launcher started another number of
            processes than the specification says.

    """
    spec = WorkerSpec.model_validate_json(path.read_text("utf-8"))
    require_processes(spec.num_processes)
    experiment = Experiment.model_validate(spec.experiment)
    home = MdelHome(Path(spec.home))
    tracker = Tracker(
        project=experiment.tracking.wandb_project,
        entity=experiment.tracking.wandb_entity,
        group=experiment.name,
        folder=Path(spec.tracking_folder),
        mode=spec.tracking_mode,
    )
    seconds = _seconds_to_train(spec.max_seconds)
    conditions = Conditions(max_seconds=seconds, tracker=tracker, is_sharded=spec.is_sharded)
    made = make(
        home.lineage(experiment),
        spec.kind,
        [spec.key],
        conditions=conditions,
        takes_locks=False,
    )
    made.raise_failures()


def _seconds_to_train(limit: float | None) -> float | None:
    """Return the seconds until ``limit`` or the queue's own time is over, whichever is first."""
    deadline = os.environ.get("MDEL_DEADLINE")
    if deadline is None:
        return limit
    left = max(0.0, float(deadline) - time.time())
    return round(left if limit is None else min(left, limit), 1)


def has_outcome(path: Path) -> bool:
    """Whether the worker of the specification at ``path`` wrote how it ended."""
    return _outcome_path(path).exists()


def raise_outcome(path: Path) -> None:
    """Raise what the worker of the specification at ``path`` failed with.

    Raises:
        MdelError: of the class and with the message that the worker's error had.
        WorkerError: it ended without a word, as one does that is killed.

    """
    try:
        outcome = json.loads(_outcome_path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise WorkerError(
            "The worker was killed, or could not start; its output says more. Run the same command "
            "again: a training goes on from its last checkpoint."
        ) from None
    if outcome["error"] is not None:
        kind = getattr(errors, outcome["class"], WorkerError)
        raise kind(outcome["error"])


def main() -> int:
    """Run the worker of the command line; return its exit status."""
    path = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    # The W&B service of what started this process is not its own: it may know a killed run still.
    os.environ.pop("WANDB_SERVICE", None)
    # A launcher may pass on either signal; both mean: save a checkpoint and end.
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    with _reporting():
        try:
            run_worker(path)
        except MdelError as error:
            _write_outcome(path, error)
            # The message says it all: a trace would bury it.
            logging.getLogger("mdel_assets").error("%s", error)  # noqa: TRY400
            return 1
        except BaseException as error:
            _write_outcome(path, error)
            raise
    _write_outcome(path, None)
    return 0


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    """Send the log of the first process to Dagster, where that listens, else to the terminal."""
    logger = logging.getLogger("mdel_assets")
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    if not (is_first_process() and DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ):
        show_log_lines()
        yield
        return
    with open_dagster_pipes() as pipes:
        handler = _ToPipes(pipes)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _ToPipes(logging.Handler):
    def __init__(self, pipes: PipesContext) -> None:
        super().__init__()
        self.pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        self.pipes.log.log(record.levelno, self.format(record))


def _write_outcome(path: Path, error: BaseException | None) -> None:
    if is_first_process():
        kind = type(error).__name__ if error is not None else None
        shown = None if error is None else str(error) or str(kind)
        text = json.dumps({"class": kind, "error": shown})
        write_text_atomically(_outcome_path(path), text)


def _outcome_path(path: Path) -> Path:
    return path.with_suffix(".outcome.json")


if __name__ == "__main__":
    sys.exit(main())
