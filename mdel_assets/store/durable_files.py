"""Durable files: written completely or not at all, synced; and full-disk errors."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.errors import DiskError, DiskFullError, MdelError

_FULL_DATABASE = "database or disk is full"
# SQLite's words for no room for its lock, a quota, a file size limit, and a disk that fails.
_FAILED_DATABASE = "disk I/O error"
# SQLite's locks and logs of one database take no more.
_HARDLY_ANY_BYTES = 4 << 20
# What Dagster's databases write of a run, with room to spare: a full one fails in any statement.
RUN_BYTES = 16 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def explaining_full_disk(what: str, place: Path) -> Iterator[None]:
    """Turn the operating system's full-disk errors into `DiskFullError` with the remedy.

    Raises:
        DiskFullError: the disk is full.
        DiskError: a database failed to be read or written on a disk that has room.

    """
    try:
        yield
    except Exception as error:
        free = _free_bytes(place)
        has_failed = _FAILED_DATABASE in str(error) and not isinstance(error, MdelError)
        if has_failed and free >= _HARDLY_ANY_BYTES:
            raise DiskError(
                f"A database under {place} could not be read or written (SQLite: disk I/O error), "
                f"though {free // 2**20} MiB are free. Look for a quota, a file size limit "
                f"('ulimit -f') or a failing disk ('dmesg'), run 'mdel doctor', which examines the "
                f"databases, then run the same command again; finished artifacts are kept."
            ) from error
        if isinstance(error, MdelError) or not (has_failed or is_full_disk(error)):
            raise
        free_mib = free // 2**20
        raise DiskFullError(
            f"No room to write {what} under {place} ({free_mib} MiB free; a quota or file size "
            f"limit may apply). Free some space, or move MDEL_HOME to a larger disk; then run the "
            f"same command again; finished artifacts are kept."
        ) from error


def require_room(what: str, place: Path, *, wanted_bytes: int) -> None:
    """Refuse to begin if the disk is nearly full.

    Raises:
        DiskFullError: fewer than ``wanted_bytes`` are free under ``place``.

    """
    free = _free_bytes(place)
    if free < wanted_bytes:
        raise DiskFullError(
            f"No room to write {what} under {place}: {free / 2**20:.1f} MiB are free, at least "
            f"{wanted_bytes / 2**20:.0f} MiB are needed. Free some space, or move MDEL_HOME to "
            f"another disk, then run the same command again; finished artifacts are kept."
        )


def _free_bytes(place: Path) -> int:
    """Return the free bytes of the disk that holds, or will hold, ``place``."""
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def is_full_disk(error: BaseException) -> bool:
    """Whether ``error`` says that a disk, quota or file size limit was reached."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    # Native writers (safetensors, Arrow) report the code only in words.
    words = str(error)
    if "PytorchStreamWriter failed" in words or "inline_container.cc" in words:
        # torch's own writer says nothing of the cause; a file that cannot grow is the usual one.
        return isinstance(error, RuntimeError)
    if _FULL_DATABASE in words:
        return True
    return any(f"os error {code}" in words or f"errno {code}" in words for code in _FULL)


def write_text_atomically(path: Path, text: str, *, is_kept: bool = True) -> None:
    """Write a small file atomically; without ``is_kept``, a power cut may lose it."""
    write_bytes_atomically(path, text.encode(), is_kept=is_kept)


def write_bytes_atomically(path: Path, content: bytes, *, is_kept: bool = True) -> None:
    """Do the same with bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if is_kept:
                os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link ``source`` to ``target``; copy it if the file system has no links."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            os.link(source, beside)
        except OSError:
            shutil.copyfile(source, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusively(lock: Path) -> Iterator[None]:
    """Let one process or thread at a time run the block; others wait. ``lock`` is a file."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def swap_into_place(stage: Path, final: Path) -> None:
    """Move ``stage`` to ``final``; the previous content of ``final`` ends up in ``stage``."""
    if not final.exists():
        stage.rename(final)
    elif not _exchange(stage, final):
        aside = stage.with_name(stage.name.replace(".tmp-", ".old-"))
        final.rename(aside)
        stage.rename(final)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically if the system can (Linux renameat2); return whether it did."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(
        _AT_FDCWD,
        os.fsencode(first),
        _AT_FDCWD,
        os.fsencode(second),
        ctypes.c_uint(_RENAME_EXCHANGE),
    )
    return bool(done == 0)
