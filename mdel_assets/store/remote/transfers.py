"""Files to a store and from it: each once, by its digest, several at a time, and resumable.

A file that the store has is not sent again, and one that was fetched in part is gone on with. What
was fetched is read again and compared with its digest before anyone sees it.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdel_assets.errors import DamagedArtifactError
from mdel_assets.store.digests import file_digest
from mdel_assets.store.durable_files import link_or_copy, sync
from mdel_assets.store.remote.client import Client
from mdel_assets.store.remote.entries import file_name

_log = logging.getLogger(__name__)
_FILES_AT_ONCE = 4
# A transfer of less than this needs no log line.
_WORTH_A_WORD_BYTES = 1 << 30
Files = Mapping[str, Mapping[str, Any]]


def push_files(client: Client, folder: Path, files: Files) -> None:
    """Send those of an artifact's files, as its record has them, that the store lacks."""
    by_digest = {file["xxh3"]: (name, file["size_bytes"]) for name, file in files.items()}
    _tell("pushing", by_digest.values(), client)

    def push(digest: str) -> None:
        name, size = by_digest[digest]
        if client.size(file_name(digest)) != size:
            client.upload(file_name(digest), folder / name)

    _at_once(push, by_digest)


def fetch_files(
    client: Client, files: Files, folder: Path, *, partial: Path, at_hand: Mapping[str, Path]
) -> None:
    """Bring an artifact's files into ``folder``, linked from ``at_hand`` where that has the digest.

    What was fetched of a file so far stays in the folder ``partial`` until it is whole.

    Raises:
        DamagedArtifactError: the store does not hold a file as its record says.

    """
    by_digest: dict[str, list[str]] = {}
    for name, file in files.items():
        by_digest.setdefault(file["xxh3"], []).append(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    sizes = {digest: files[names[0]]["size_bytes"] for digest, names in by_digest.items()}
    _tell("fetching", sizes.items(), client)

    def fetch(digest: str) -> None:
        first, *others = [folder / name for name in by_digest[digest]]
        if not _is_linked(at_hand.get(digest), first, digest):
            _fetch(client, digest, first, size=sizes[digest], partial=partial)
        for other in others:
            link_or_copy(first, other)

    _at_once(fetch, by_digest)


def _is_linked(source: Path | None, target: Path, digest: str) -> bool:
    """Link a file that is at hand, and tell whether that has the digest."""
    if source is None or not source.is_file():
        return False
    link_or_copy(source, target)
    if file_digest(target) == digest:
        return True
    target.unlink()
    return False


def _fetch(client: Client, digest: str, target: Path, *, size: int, partial: Path) -> None:
    partial.mkdir(parents=True, exist_ok=True)
    with _exclusive(partial / digest) as path:
        # A file that was cut off by a power cut may hold what was never fetched: then once more.
        for _ in range(2):
            if path.stat().st_size > size:
                os.truncate(path, 0)
            try:
                with path.open("ab") as file:
                    for part in client.parts(file_name(digest), begin=file.tell(), size=size):
                        file.write(part)
                        file.flush()
            except FileNotFoundError:
                path.unlink()
                raise DamagedArtifactError(
                    f"{client.address} lacks {file_name(digest)}, which a record there names."
                ) from None
            if path.stat().st_size == size and file_digest(path) == digest:
                sync(path)
                path.chmod(0o644)
                os.replace(path, target)
                return
            os.truncate(path, 0)
        path.unlink()
    # Its name says what it should hold: whoever has that may write it anew.
    client.delete([file_name(digest)])
    raise DamagedArtifactError(
        f"{client.address} does not hold in {file_name(digest)} what that name says."
    )


@contextmanager
def _exclusive(path: Path) -> Iterator[Path]:
    """Hold a file that is fetched into, after whoever else fetches into it."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it before may have moved it to its place.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield path
                return


def _at_once(work: Any, digests: Mapping[str, Any]) -> None:
    """Do ``work`` for each of ``digests``, some at a time; raise the first error."""
    with ThreadPoolExecutor(min(_FILES_AT_ONCE, max(1, len(digests)))) as threads:
        futures = [threads.submit(work, digest) for digest in digests]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _tell(what: str, sized: Any, client: Client) -> None:
    size = sum(size for _, size in sized)
    if size > _WORTH_A_WORD_BYTES:
        _log.info("%s up to %.1f GiB, %s", what, size / 2**30, client.address)
