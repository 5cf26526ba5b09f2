"""The worker: makes artifacts in processes of its own: ``python -m mdel_assets.worker SPEC``.

Whatever starts it (torchrun, accelerate, a queue), it reads the same specification, takes the same
step and leaves the same artifact as the step's own process would. Its log goes to Dagster through
Pipes where Dagster started it, and to the terminal elsewhere. How it ended lies beside the
specification.
"""

import contextlib
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from mdel_assets.engines.job_script import DEADLINE, JOB_HOME, RETURN
from mdel_assets.engines.returned import give_back
from mdel_assets.engines.worker_spec import WorkerSpec, write_outcome
from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.kind import Part
from mdel_assets.line.making import make, make_part
from mdel_assets.machine.child_processes import end_with_starter
from mdel_assets.machine.console import show_log_lines
from mdel_assets.machine.processes import is_first_process, require_processes
from mdel_assets.tracking import Tracker


def run_worker(path: Path) -> None:
    """Make what the specification at ``path`` names.

    Raises:
        MdelError: the step's own; `TrainingError` where the launcher started another number of
            processes than the specification says.

    """
    spec = WorkerSpec.model_validate_json(path.read_text("utf-8"))
    require_processes(spec.num_processes)
    experiment = Experiment.model_validate(spec.experiment)
    home = MdelHome(Path(os.environ.get(JOB_HOME) or spec.home))
    tracker = Tracker(
        project=experiment.tracking.wandb_project,
        entity=experiment.tracking.wandb_entity,
        group=experiment.name,
        folder=Path(spec.tracking_folder),
        mode=spec.tracking_mode,
    )
    lineage = home.lineage(experiment, store=spec.store)
    if spec.part:
        make_part(lineage, spec.kind, spec.keys, Part(*spec.part))
        return
    seconds = _seconds_to_train(spec.max_seconds)
    conditions = Conditions(max_seconds=seconds, tracker=tracker, is_sharded=spec.is_sharded)
    make(lineage, spec.kind, spec.keys, conditions=conditions, takes_locks=False).raise_failures()


def _seconds_to_train(limit: float | None) -> float | None:
    """Return the seconds until ``limit`` or the queue's own time is over, whichever is first."""
    deadline = os.environ.get(DEADLINE)
    if deadline is None:
        return limit
    left = max(0.0, float(deadline) - time.time())
    return round(left if limit is None else min(left, limit), 1)


def main() -> int:
    """Run the worker of the command line; return its exit status."""
    path = Path(sys.argv[1])
    end_with_starter()
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
    if not is_first_process():
        return
    write_outcome(path, error)
    if name := os.environ.get(RETURN):
        give_back(path, name=name)


if __name__ == "__main__":
    sys.exit(main())
