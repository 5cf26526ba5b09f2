"""Verify that files match their records; each file is read once, as long as it does not change.

Notes say which files of an artifact were found right, and how they were then: a note holds while
the file's size, inode and time of change stay, and what it says was read is what the record says.
Of files that have no record, such as other people's models, they say what was read.
"""

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mdel_assets.store.digests import file_digest
from mdel_assets.store.durable_files import write_text_atomically

_log = logging.getLogger(__name__)
_MAX_THREADS = 4
# Verifying less than this needs no log line.
_WORTH_A_WORD_BYTES = 4 << 30
# Within one tick of the file system's clock a file may change without a new modification time.
_TICK_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Notes:
    """The verified files of an artifact in ``folder``, noted in the file ``path``.

    If ``path`` is None nothing is noted, and files are read each time.
    """

    folder: Path
    path: Path | None

    def problem(self, files: Mapping[str, Mapping[str, Any]], *, trust: bool = True) -> str | None:
        """Return which of ``files`` is missing or differs from its record; None if none does.

        ``files`` are those of a `Record`. Without ``trust`` all are read, regardless of the notes.
        """
        for name, expected in files.items():
            path = self.folder / name
            if not path.is_file():
                return f"{path} is missing"
            size = path.stat().st_size
            if size != expected["size_bytes"]:
                return f"{path} has {size} bytes, its record says {expected['size_bytes']}"
        noted = self._read() if trust else {}
        now = {name: self._note(name, file["xxh3"]) for name, file in files.items()}
        unread = [name for name, note in now.items() if noted.get(name) != note]
        if not unread:
            return None
        wrong = {
            name: digest
            for name, digest in self._digests(unread).items()
            if digest != files[name]["xxh3"]
        }
        self._write({name: note for name, note in now.items() if name not in wrong})
        for name, digest in wrong.items():
            recorded = files[name]["xxh3"]
            return f"{self.folder / name} has digest {digest}, its record says {recorded}"
        return None

    def digests(self, names: Collection[str]) -> dict[str, str]:
        """Return the digest of each of the files ``names``, read where no note holds."""
        noted = self._read()
        known: dict[str, str] = {}
        for name in names:
            digest = (noted.get(name) or {}).get("xxh3", "")
            if digest and noted[name] == self._note(name, digest):
                known[name] = digest
        unread = {name: self._note(name, "") for name in names if name not in known}
        if not unread:
            return known
        read = self._digests(unread)
        kept = {name: noted[name] for name in known}
        self._write(kept | {name: note | {"xxh3": read[name]} for name, note in unread.items()})
        return known | read

    def write(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Note that ``files``, those of a `Record`, were read and match it."""
        self._write({name: self._note(name, file["xxh3"]) for name, file in files.items()})

    def _digests(self, names: Collection[str]) -> dict[str, str]:
        paths = [self.folder / name for name in names]
        size = sum(path.stat().st_size for path in paths)
        if size > _WORTH_A_WORD_BYTES:
            _log.warning("reading %.0f GiB in %s to verify them", size / 2**30, self.folder)
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1, len(paths))) as threads:
            return dict(zip(names, threads.map(file_digest, paths), strict=True))

    def _note(self, name: str, digest: str) -> dict[str, Any]:
        """Return the file's state, which changes with the file, and its digest."""
        status = (self.folder / name).stat()
        return {
            "size_bytes": status.st_size,
            "inode": status.st_ino,
            "mtime_ns": status.st_mtime_ns,
            "xxh3": digest,
        }

    def _write(self, notes: Mapping[str, Mapping[str, Any]]) -> None:
        if self.path is None:
            return
        now = time.time()
        kept = {
            name: note
            for name, note in notes.items()
            if not 0 <= now - note["mtime_ns"] / 1e9 < _TICK_SECONDS
        }
        # In a home that is not writable, files are read each time.
        with contextlib.suppress(OSError):
            text = json.dumps(kept, sort_keys=True) + "\n"
            write_text_atomically(self.path, text, is_kept=False)

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
