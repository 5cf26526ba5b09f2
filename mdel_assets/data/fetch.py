"""Fetch one shard file from a path, an https URL, ``hf://`` or ``sample://`` to a local folder.

Bytes go to a temporary name first; the caller renames the whole file. Downloads resume where they
stopped, also in a later process, as long as the server's ETag is the same.
"""

import dataclasses
import hashlib
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.data.folder_files import folder_files
from mdel_assets.errors import FetchError, that_may_pass
from mdel_assets.hub.credentials import find_token
from mdel_assets.store.durable_files import sha256_of

_log = logging.getLogger(__name__)
_NUM_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.5
_PROGRESS_SECONDS = 15.0
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclasses.dataclass(frozen=True)
class FetchedShard:
    """A completely fetched file or folder. ``source_signature`` changes when the source does.

    A folder's ``sha256`` is that of its listing: a line ``sha256  name`` for each file, by name.
    ``digests`` are the files' xxh3-128, by `file_number`, found in the same reading.
    """

    path: Path
    size_bytes: int
    sha256: str
    source_signature: str | None
    location: str
    digests: Mapping[tuple[int, int], str]


def fetch_shard(
    location: str,
    *,
    folder: Path,
    partial_folder: Path,
    sha256: str | None = None,
    is_folder: bool = False,
) -> FetchedShard:
    """Fetch the file (or folder, with layout ``folders``) at ``location`` into ``folder``.

    Its sha256 must equal ``sha256``, if given, and the Hub's, if it states one. ``partial_folder``
    holds a download in progress.

    Raises:
        FetchError: the source is missing, stays unreachable, is empty, or has another sha256.

    """
    signature = source_signature(location)
    target = folder / location.rstrip("/").rsplit("/", 1)[-1]
    promised = None
    if is_folder:
        _link_folder(_require_folder(location), target)
    elif location.startswith(("http://", "https://")):
        signature = _download(location, target, partial_folder)
        promised = _as_sha256(signature)
    elif location.startswith("hf://"):
        signature, promised = _download_from_hub(location, target)
    elif location.startswith("sample://"):
        from mdel_assets.data.sample_corpus import sample_shard

        _link_or_copy(sample_shard(target.name, cache=partial_folder.parent), target)
    else:
        _link_or_copy(_require_local(location), target)
    digests: dict[tuple[int, int], str] = {}
    seen = sha256_of(target, xxh3=digests)
    for expected, teller in ((sha256, "the experiment"), (promised, "the server")):
        if expected and seen != expected.lower():
            shutil.rmtree(partial_folder, ignore_errors=True)
            raise FetchError(
                f"{location} has sha256 {seen}, expected {expected} ({teller} says). The file was "
                f"corrupted or replaced: fetch it again, or correct source.sha256 in the "
                f"experiment."
            )
    size = sum(path.stat().st_size for path in _files(target))
    if size == 0:
        raise FetchError(f"{location} is empty (0 bytes). Check the path or fetch it again.")
    shutil.rmtree(partial_folder, ignore_errors=True)
    return FetchedShard(target, size, seen, signature, location, digests)


def source_signature(location: str) -> str | None:
    """Return a cheap signature of a source's state; None if it would need the network.

    A local file's signature is its size and modification time, a folder's combines those of all its
    files, and a sample shard's is the version of the sample corpus.
    """
    if location.startswith("sample://"):
        from mdel_assets.data.sample_corpus import sample_signature

        return sample_signature()
    if "://" in location:
        return None
    path = Path(location).expanduser()
    if path.is_file():
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    files = folder_files(path) if path.is_dir() else []
    marks = [f"{f.relative_to(path)} {source_signature(str(f))}" for f in files]
    return hashlib.sha256(os.fsencode("\n".join(marks))).hexdigest() if marks else None


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _require_folder(location: str) -> Path:
    path = Path(location).expanduser()
    if "://" in location or not path.is_dir():
        raise FetchError(
            f"'{location}' is not a local folder. With layout 'folders' source.train lists local "
            f"folders, each with a folder per domain; fetch a remote one first, for example with "
            f"'hf download --local-dir'."
        )
    return path


def _link_folder(source: Path, target: Path) -> None:
    files = folder_files(source)
    if all(file.parent == source for file in files):
        raise FetchError(f"'{source}' has no files in subfolders: expected {source}/DOMAIN/FILE.")
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(file, place)


def _as_sha256(etag: str | None) -> str | None:
    """Return an ETag that is a sha256, as the Hub's for large files; None for any other."""
    bare = (etag or "").strip('"')
    return bare if re.fullmatch(r"[0-9a-f]{64}", bare) else None


def _require_local(location: str) -> Path:
    path = Path(location).expanduser()
    if not path.is_file():
        raise FetchError(
            f"The shard '{location}' is not a file. Correct source.train, source.validation or "
            f"source.test in the experiment, or mount the disk it lies on."
        )
    return path


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _download_from_hub(location: str, target: Path) -> tuple[str, str | None]:
    """Fetch a Hub file to ``target``; return its commit, and its sha256 if the Hub states it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from mdel_assets.data.hub_files import hub_file

    file = hub_file(location)
    name = file.name
    try:
        path = hf_hub_download(
            file.repository,
            name,
            repo_type=file.kind,
            revision=file.revision,
            token=find_token() or False,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        refused = FetchError(
            f"{location} could not be fetched from the Hub ({type(error).__name__}: {error}). "
            f"Check the name, the network, and HF_TOKEN if the repository is private."
        )
        refused.may_pass = _is_passing(error)
        raise refused from error
    _link_or_copy(Path(path), target)
    # The Hub's cache names a blob by its ETag, which of a large file is the sha256.
    commit = Path(path).relative_to(Path(path).parents[name.count("/") + 1]).parts[0]
    return commit, _as_sha256(Path(path).resolve().name)


def _is_passing(error: Exception) -> bool:
    """Whether the error is transient: the Hub was busy or could not be reached."""
    response = getattr(error, "response", None)
    return response is None or response.status_code in _RETRIED_STATUS


def _download(url: str, target: Path, partial_folder: Path) -> str | None:
    """Fetch ``url`` to ``target``, resuming what ``partial_folder`` holds; return its ETag."""
    import httpx

    partial_folder.mkdir(parents=True, exist_ok=True)
    partial, etag_file = partial_folder / target.name, partial_folder / "etag"
    last: Exception | None = None
    for attempt in range(_NUM_ATTEMPTS):
        if attempt:
            time.sleep(min(30.0, _FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.5, 1.0))
        try:
            etag = _download_once(httpx, url, partial, etag_file)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _RETRIED_STATUS:
                raise FetchError(
                    f"{url} answered {error.response.status_code}. Check the address and access."
                ) from error
            last = error
        except (httpx.TransportError, _CutOffError) as error:
            last = error
        else:
            shutil.move(partial, target)
            return etag
        _log.warning("fetching %s: attempt %d failed: %s", url, attempt + 1, last)
    raise that_may_pass(
        FetchError(
            f"{url} could not be fetched in {_NUM_ATTEMPTS} attempts ({last}). The part that "
            f"arrived is kept; run the same command again to resume."
        )
    ) from last


class _CutOffError(Exception):
    """The connection ended before the promised length."""


def _download_once(httpx: Any, url: str, partial: Path, etag_file: Path) -> str | None:
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    known_etag = etag_file.read_text() if etag_file.exists() else None
    if have and known_etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": known_etag}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=60.0) as response:
        if response.status_code == 416:
            partial.unlink(missing_ok=True)
            raise _CutOffError("the server refused the range; starting over")
        response.raise_for_status()
        resumed = response.status_code == 206
        etag: str | None = response.headers.get("ETag")
        if etag and not etag.startswith("W/"):
            etag_file.write_text(etag)
        else:
            etag_file.unlink(missing_ok=True)
        written = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = written + int(length) if length else None
        progress = _Progress(partial.name, written, expected)
        with partial.open("ab" if resumed else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                written += len(block)
                progress.show(written)
        if expected is not None and written != expected:
            raise _CutOffError(f"{written} of {expected} bytes arrived")
        return etag


class _Progress:
    """Logs rate and time left at intervals."""

    def __init__(self, name: str, had: int, expected: int | None) -> None:
        self._name = name
        self._had = had
        self._expected = expected
        self._started = self._reported = time.monotonic()

    def show(self, written: int) -> None:
        """Log how much has arrived, unless the last line is recent."""
        now = time.monotonic()
        if now - self._reported < _PROGRESS_SECONDS:
            return
        self._reported = now
        rate = (written - self._had) / (now - self._started)
        left = (
            f", {(self._expected - written) / max(rate, 1.0):.0f} s left" if self._expected else ""
        )
        _log.info("%s: %.0f MB fetched, %.1f MB/s%s", self._name, written / 1e6, rate / 1e6, left)
