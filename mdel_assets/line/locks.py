"""One maker at a time: a process that makes an artifact holds its lock; others wait and reuse it.

A lock is a file that the system lets one process hold, and takes back when that process dies.
Pools bound how much is done at a time, and may be set to any number; locks say that nothing is done
twice. Whoever starts workers or jobs holds the lock for them: they take none. Whoever takes
artifacts away holds the locks of all that are being made (`making_nothing`).
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.machine.termination import noticing_termination
from mdel_assets.store.artifacts import Artifact

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2
_TELL_SECONDS = 15.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def making(*artifacts: Artifact) -> Iterator[None]:
    """Hold the locks of ``artifacts``, after waiting for other makers.

    Raises:
        TrainingInterruptedError: the process was told to end while it waited.

    """
    with _holding({artifact.lock_path: artifact.label for artifact in artifacts}):
        yield


@contextlib.contextmanager
def making_nothing(locks: Iterable[Path], artifacts: Iterable[Artifact] = ()) -> Iterator[None]:
    """Hold ``locks``, the files of those that were ever taken, and the locks of ``artifacts``.

    What is being made is waited for: then it is there to be found, and nothing is half made.

    Raises:
        TrainingInterruptedError: the process was told to end while it waited.

    """
    labels = {path: path.name.strip(".") for path in locks}
    with _holding(labels | {artifact.lock_path: artifact.label for artifact in artifacts}):
        yield


@contextlib.contextmanager
def _holding(labels: Mapping[Path, str]) -> Iterator[None]:
    """Hold the locks at some paths; what each is of goes by its label."""
    with contextlib.ExitStack() as stack:
        # In one order, so that no two processes wait for each other.
        for path in sorted(labels):
            stack.enter_context(_locked(path, labels[path]))
        yield


@contextlib.contextmanager
def _locked(path: Path, label: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        stack.callback(os.close, descriptor)
        if _take(descriptor, path, label):
            # What this process has forked may have the file open for longer.
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} of {socket.gethostname()}".encode(), 0)
        yield


def _take(descriptor: int, path: Path, label: str) -> bool:
    """Wait for a lock; return False where the file system has none."""
    with noticing_termination() as termination:
        told = -_TELL_SECONDS
        while not termination.signal_name:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - told >= _TELL_SECONDS:
                    told = time.monotonic()
                    _log.warning("waiting for %s, which %s makes", label, _holder(path))
                time.sleep(_LOOK_SECONDS)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _log.warning(
                    "the file system of %s has no locks: start no two runs of one artifact",
                    path.parent,
                )
                return False
            else:
                return True
    raise TrainingInterruptedError(
        f"Told to end ({termination.signal_name}) while waiting for {label}, which "
        f"{_holder(path)} makes. Run the same command again to go on.",
        is_cancelled=termination.is_cancellation,
    )


def _holder(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") or "another process"
