"""The files of a corpus that is a folder: a folder per domain, and files somewhere in each.

Links to files and folders are followed. Names that begin with a dot are skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def folder_files(root: Path) -> list[Path]:
    """Return all files below ``root``, sorted, including those directly in it."""
    return sorted(_walk(root, frozenset()))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yield the files of a folder; one that is linked into itself is entered once."""
    inside = above | {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in found:
        if entry.is_dir():
            if os.path.realpath(entry.path) not in inside:
                yield from _walk(Path(entry.path), inside)
        elif entry.is_file():
            yield Path(entry.path)
