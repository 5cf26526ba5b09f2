"""One maker at a time: who makes an artifact holds its lock, another waits and then finds it made.

A lock is a file that the system lets one process hold, and takes back when that process dies.
Pools bound how much is done at a time, and may be set to any number; locks say that nothing is done
twice. Whoever starts workers or jobs holds the lock for them: they take none.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
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
    """Hold the locks of ``artifacts``, once nobody else makes one of them.

    Raises:
        TrainingInterruptedError: the process was told to end while it waited.

    """
    with contextlib.ExitStack() as stack:
        # In one order, so that no two processes wait for each other.
        for artifact in sorted(artifacts, key=lambda artifact: artifact.lock_path):
            stack.enter_context(_locked(artifact))
        yield


@contextlib.contextmanager
def _locked(artifact: Artifact) -> Iterator[None]:
    path = artifact.lock_path
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        stack.callback(os.close, descriptor)
        if _take(descriptor, artifact):
            # What this process has forked may have the file open for longer.
            stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} of {socket.gethostname()}".encode(), 0)
        yield


def _take(descriptor: int, artifact: Artifact) -> bool:
    """Wait for a lock; return False where the file system has none."""
    with noticing_termination() as termination:
        told = -_TELL_SECONDS
        while not termination.signal_name:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - told >= _TELL_SECONDS:
                    told = time.monotonic()
                    holder = _holder(artifact.lock_path)
                    _log.warning("waiting for %s, which %s makes", artifact.label, holder)
                time.sleep(_LOOK_SECONDS)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _log.warning(
                    "the file system of %s has no locks: start no two runs of one artifact",
                    artifact.work,
                )
                return False
            else:
                return True
    raise TrainingInterruptedError(
        f"Told to end ({termination.signal_name}) while waiting for {artifact.label}, which "
        f"{_holder(artifact.lock_path)} makes. Run the same command again to go on.",
        is_cancelled=termination.is_cancellation,
    )


def _holder(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") or "another process"
