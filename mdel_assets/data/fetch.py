"""Fetch one shard file from a path, an https URL, ``hf://`` or ``sample://`` to a local folder.

Bytes go to a temporary name first; the caller renames the whole file. Downloads resume where they
stopped, also in a later process, as long as the server's ETag is the same.
"""

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mdel_assets.data.folder_files import folder_files
from mdel_assets.errors import FetchError
from mdel_assets.hub.credentials import find_token
from mdel_assets.hub.retries import RetryPolicy, with_retries
from mdel_assets.machine.progress import Progress
from mdel_assets.store.digests import sha256_of
from mdel_assets.store.durable_files import link_or_copy

_RETRIES = RetryPolicy(num_attempts=6)
T = TypeVar("T")


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

        link_or_copy(sample_shard(target.name, cache=partial_folder.parent).resolve(), target)
    else:
        link_or_copy(_require_local(location).resolve(), target)
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
    files = [target] if target.is_file() else target.rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
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
    if is_remote(location):
        return None
    path = Path(location).expanduser()
    if path.is_file():
        status = path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    files = folder_files(path) if path.is_dir() else []
    marks = [f"{f.relative_to(path)} {source_signature(str(f))}" for f in files]
    return hashlib.sha256(os.fsencode("\n".join(marks))).hexdigest() if marks else None


def is_remote(location: str) -> bool:
    """Whether a source is asked over the network."""
    return "://" in location and not location.startswith("sample://")


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
        link_or_copy(file.resolve(), place)


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


def _download_from_hub(location: str, target: Path) -> tuple[str, str | None]:
    """Fetch a Hub file to ``target``; return its commit, and its sha256 if the Hub states it."""
    from huggingface_hub import hf_hub_download

    from mdel_assets.data.hub_files import hub_file

    file = hub_file(location)
    name = file.name

    def fetch() -> str:
        return hf_hub_download(
            file.repository,
            name,
            repo_type=file.kind,
            revision=file.revision,
            token=find_token() or False,
        )

    remedy = "Check the name, and HF_TOKEN if the repository is private."
    try:
        path = _retried(fetch, location, remedy=remedy)
    except OSError as error:
        raise FetchError(
            f"{location} could not be fetched from the Hub ({type(error).__name__}: {error}). "
            f"{remedy}"
        ) from error
    link_or_copy(Path(path).resolve(), target)
    # The Hub's cache names a blob by its ETag, which of a large file is the sha256.
    commit = Path(path).relative_to(Path(path).parents[name.count("/") + 1]).parts[0]
    return commit, _as_sha256(Path(path).resolve().name)


def _download(url: str, target: Path, partial_folder: Path) -> str | None:
    """Fetch ``url`` to ``target``, resuming what ``partial_folder`` holds; return its ETag."""
    partial_folder.mkdir(parents=True, exist_ok=True)
    partial, etag_file = partial_folder / target.name, partial_folder / "etag"
    etag = _retried(
        lambda: _download_once(url, partial, etag_file),
        url,
        remedy="Check the address and access.",
    )
    shutil.move(partial, target)
    return etag


def _retried(fetch: Callable[[], T], location: str, *, remedy: str) -> T:
    what = f"fetching {location}"
    return with_retries(fetch, what=what, retries=_RETRIES, raises=FetchError, remedy=remedy)


def _download_once(url: str, partial: Path, etag_file: Path) -> str | None:
    import httpx2

    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    known_etag = etag_file.read_text() if etag_file.exists() else None
    if have and known_etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": known_etag}
    with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as response:
        if response.status_code == 416:
            partial.unlink(missing_ok=True)
            raise httpx2.RemoteProtocolError("the server refused the range; starting over")
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
        progress = Progress(_words_of(partial.name), total=expected, done=written)
        with partial.open("ab" if resumed else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                written += len(block)
                progress.reach(written)
        if expected is not None and written != expected:
            raise httpx2.RemoteProtocolError(f"{written} of {expected} bytes arrived")
        return etag


def _words_of(name: str) -> Callable[[Progress], str]:
    return lambda p: f"{name}: {p.done / 1e6:.0f} MB fetched, {p.rate / 1e6:.1f} MB/s"
