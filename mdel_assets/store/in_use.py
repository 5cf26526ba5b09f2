"""Artifacts in use: what a process reads is not taken out of a home that is a cache.

A use is a lock that readers share, on a file of the artifact's; its time says when the last use
began. It lasts until the block `using` ends in which it began, or else the process.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

USE_SUFFIX = ".using"
_Uses = dict[Path, int]
_of_process: _Uses = {}
_uses: ContextVar[_Uses | None] = ContextVar("_uses", default=None)


@contextlib.contextmanager
def using() -> Iterator[None]:
    """End the uses that begin in this block with it."""
    uses: _Uses = {}
    token = _uses.set(uses)
    try:
        yield
    finally:
        _uses.reset(token)
        for descriptor in uses.values():
            os.close(descriptor)


def use(path: Path) -> None:
    """Begin a use of the artifact whose file for this is ``path``; wait while it is taken away."""
    uses = _uses.get()
    uses = _of_process if uses is None else uses
    if path not in uses:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.suppress(OSError):
            # A file system without locks has no limit either.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        uses[path] = descriptor
    os.utime(path)


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody uses the artifact of ``path``; if so, nobody does before the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def last_use(path: Path) -> float:
    """Return when the last use began, in seconds since 1970; 0 where there was none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
