"""Run several pieces of work at a time on this machine's CPU cores, each in its own process.

If models are small for a machine, training one after another leaves most of its cores idle, because
the products of a small model are too small to split. So each model gets a process with a share of
the threads. Processes are forked from one that has loaded the libraries, and so start at once;
their log lines are forwarded with their names. A process that dies fails only its own work.
"""

import contextlib
import dataclasses
import gc
import logging
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from mdel_assets import errors
from mdel_assets.errors import MdelError, TrainingInterruptedError, WorkerError
from mdel_assets.machine.child_processes import (
    end_with_parent,
    hear_interrupts,
    workers_deaf_to_interrupts,
)
from mdel_assets.machine.termination import Termination, noticing_termination

_log = logging.getLogger(__name__)
_LOADED_BEFOREHAND = [
    "mdel_assets.training.steps",
    "mdel_assets.evaluation.steps",
    "mdel_assets.training.expert",
    "mdel_assets.training.baseline",
    "mdel_assets.training.trainer",
    "mdel_assets.scoring.score_together",
]
_PACKAGE = "mdel_assets"
_LOOK_SECONDS = 0.5
_END_SECONDS = 20.0
# The memory of a process besides its models: the libraries, and a domain's text.
_BYTES_PER_PROCESS = 1 << 30
_SHARE_OF_MEMORY = 0.7
# Some ten seconds of a core.
_WORTH_A_PROCESS = 2e11


@dataclasses.dataclass(frozen=True)
class Work:
    """A call to make in a separate process; its log lines begin with ``name``."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call returned, or the error that it raised."""

    value: Any = None
    error: MdelError | None = None


def num_at_once(num_pieces: int, *, model_bytes: int, num_operations: float) -> int:
    """Return how many of ``num_pieces`` pieces of work this machine should run at a time.

    Each needs ``model_bytes`` of memory and ``num_operations`` floating-point operations. With a
    GPU, which a single model keeps busy, it is one. It is also one if the work takes less time than
    starting a process. Otherwise it is as many as cores and memory allow.
    """
    import psutil

    room = _SHARE_OF_MEMORY * psutil.virtual_memory().available
    fitting = int(room // (model_bytes + _BYTES_PER_PROCESS))
    found = max(1, min(num_pieces, _num_cores(), fitting))
    if num_operations < _WORTH_A_PROCESS or found == 1:
        return 1
    if shutil.which("nvidia-smi") is None:
        # The server of processes loads its libraries while this process loads torch.
        prepare()
    import torch

    return 1 if torch.cuda.is_available() else found


def prepare() -> None:
    """Begin to load the libraries for forked processes, in the background."""
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        with workers_deaf_to_interrupts():
            forkserver.ensure_running()


def run_side_by_side(work: Sequence[Work], *, num_processes: int) -> Iterator[tuple[Work, Outcome]]:
    """Make the calls, ``num_processes`` at a time, and yield each when it has ended.

    A killed process fails with a `WorkerError`. If this process is told to end, the others are,
    too, and calls that have not begun fail with a `TrainingInterruptedError`.
    """
    num_threads = max(1, _num_cores() // num_processes)
    waiting, running, not_begun = list(work), list[_Running](), list[Work]()
    is_told = False
    with noticing_termination() as termination:
        try:
            while waiting or running:
                if termination.signal_name and not is_told:
                    is_told = True
                    for one in running:
                        one.tell(termination)
                if is_told:
                    not_begun += waiting
                    waiting = []
                while waiting and len(running) < num_processes:
                    running.append(_Running.start(waiting.pop(0), num_threads=num_threads))
                wait([one.connection for one in running], timeout=_LOOK_SECONDS)
                for one in list(running):
                    if outcome := one.look():
                        running.remove(one)
                        yield one.work, outcome
            yield from ((one, _not_begun(one, termination)) for one in not_begun)
        finally:
            for one in running:
                one.process.kill()


@dataclasses.dataclass
class _Running:
    """A running process, seen from the one that started it."""

    work: Work
    process: BaseProcess
    connection: Connection

    @classmethod
    def start(cls, work: Work, *, num_threads: int) -> "_Running":
        context = _context()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(work, theirs, num_threads), name=work.name)  # type: ignore[attr-defined]
        with workers_deaf_to_interrupts():
            process.start()
        theirs.close()
        return cls(work, process, ours)

    def look(self) -> Outcome | None:
        """Forward the process's log lines; return its outcome once it has ended."""
        try:
            while self.connection.poll():
                sent = self.connection.recv()
                if not isinstance(sent, _Line):
                    self._end()
                    return _outcome_of(sent)
                sent.log(self.work.name)
        except EOFError:
            self.process.join()
            return Outcome(
                error=WorkerError(
                    f"The process of {self.work.name} was killed "
                    f"(exit code {self.process.exitcode}), perhaps because memory ran out. Run the "
                    f"same command again: a training resumes from its last checkpoint."
                )
            )
        return None

    def _end(self) -> None:
        """Make sure that the process ends, now that its work is done."""
        self.process.join(_END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def tell(self, termination: Termination) -> None:
        """Forward this process's termination signal."""
        with contextlib.suppress(ProcessLookupError):
            assert self.process.pid
            os.kill(self.process.pid, signal.Signals[termination.signal_name])


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of a process's log."""

    logger: str
    level: int
    text: str

    def log(self, name: str) -> None:
        logging.getLogger(self.logger).log(self.level, "%s: %s", name, self.text)


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An error with its class's name, because not every class can be pickled."""

    kind: str
    message: str
    is_cancelled: bool


def _outcome_of(sent: Any) -> Outcome:
    if not isinstance(sent, _Failure):
        return Outcome(value=sent)
    if sent.kind == TrainingInterruptedError.__name__:
        interrupted = TrainingInterruptedError(sent.message, is_cancelled=sent.is_cancelled)
        return Outcome(error=interrupted)
    kind = getattr(errors, sent.kind, None)
    if kind is None:
        return Outcome(error=WorkerError(f"{sent.kind}: {sent.message}"))
    return Outcome(error=kind(sent.message))


def _not_begun(work: Work, termination: Termination) -> Outcome:
    return Outcome(
        error=TrainingInterruptedError(
            f"{work.name} was not started: the run was told to end ({termination.signal_name}).",
            is_cancelled=termination.is_cancellation,
        )
    )


def _run(work: Work, connection: Connection, num_threads: int) -> None:
    """Make the call in this new process, and send its log lines and its outcome."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_once)
    hear_interrupts()
    logger = logging.getLogger(_PACKAGE)
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToConnection(connection))
    logger.propagate = False
    # Do not use the parent's W&B service, which may still have a killed run open.
    os.environ.pop("WANDB_SERVICE", None)
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_threads)
    # Garbage collection would free nothing of the libraries and takes half a second each time.
    gc.freeze()
    try:
        sent: Any = work.function(*work.arguments)
    except MdelError as error:
        sent = _Failure(type(error).__name__, str(error), getattr(error, "is_cancelled", False))
    except KeyboardInterrupt as error:
        is_cancelled = str(error) == signal.SIGINT.name
        sent = _Failure(
            TrainingInterruptedError.__name__,
            f"{work.name} was told to end ({error}). Run the same command again.",
            is_cancelled,
        )
    except BaseException as error:  # noqa: BLE001  (it is told where the work was asked for)
        _log.exception("%s failed", work.name)
        sent = _Failure(type(error).__name__, str(error), is_cancelled=False)
    connection.send(sent)
    connection.close()


def _end_once(number: int, _: Any) -> None:
    """Raise at the first signal; a terminal and the starting process may both send one."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


class _ToConnection(logging.Handler):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        self.connection.send(_Line(record.name, record.levelno, self.format(record)))


def _context() -> BaseContext:
    """Return how processes are started: forked from a server that has no threads, on Linux."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED_BEFOREHAND)
    return context


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
