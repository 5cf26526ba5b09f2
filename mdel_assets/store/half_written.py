"""Staging folders, in which artifacts are written before they are renamed, and their writers."""

import glob
import os
import re
import shutil
import socket
import time
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.+)\.(?:tmp|old)-(?P<host>.+)-(?P<pid>\d+)-[^-]+")
# Another machine that shares the disk may be writing; it shows no process here.
ELSEWHERE_SECONDS = 24 * 3600.0


def staging_prefix(name: str) -> str:
    """Return the prefix of this process's staging folder for ``name``."""
    return f".{name}.tmp-{socket.gethostname()}-{os.getpid()}-"


def staging_folders(root: Path) -> list[Path]:
    """Return the staging folders under ``root``, also those that are being written, sorted."""
    return sorted(path for path in root.rglob(".*") if _NAME.fullmatch(path.name))


def final_place(folder: Path) -> Path:
    """Return where the staging folder ``folder``, or the record in it, was to be moved."""
    match = _NAME.fullmatch(folder.name)
    assert match
    return folder.with_name(match["name"])


def dead_writer(folder: Path) -> str | None:
    """Return the process that left ``folder`` half-written; None if it may still write there."""
    match = _NAME.fullmatch(folder.name)
    if match is None or _is_being_written(folder, match["host"], int(match["pid"])):
        return None
    return f"process {match['pid']} of {match['host']}"


def remove_left_behind(parent: Path, name: str) -> None:
    """Remove half-written folders of ``name`` that dead processes left."""
    for folder in parent.glob(f".{glob.escape(name)}.tmp-*"):
        if dead_writer(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_being_written(folder: Path, host: str, pid: int) -> bool:
    import psutil

    try:
        changed = folder.stat().st_mtime
        if host != socket.gethostname():
            return time.time() - changed < ELSEWHERE_SECONDS
        # A process that began after the folder only has its number from another.
        return bool(psutil.Process(pid).create_time() <= changed + 1)
    except FileNotFoundError:
        # Just moved into its place.
        return True
    except psutil.NoSuchProcess:
        return False
