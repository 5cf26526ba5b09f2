"""The size of a source's file before it is fetched, asked for as cheaply as possible."""

import functools
import logging
from pathlib import Path

from mdel_assets.data.folder_files import folder_files
from mdel_assets.data.hub_files import hub_file
from mdel_assets.errors import MdelError
from mdel_assets.hub.credentials import find_token

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 5.0
# The sample's shards, which are made of packages.
_SAMPLE_BYTES = {
    "train.jsonl.zst": 8_255_345.0,
    "val.jsonl.zst": 1_091_867.0,
    "test.jsonl.zst": 1_776_132.0,
}


def source_bytes(location: str) -> float | None:
    """Return the size in bytes of the file or folder at ``location``; None if it does not say.

    A remote file is asked for once, and its content is not read.
    """
    if location.startswith("sample://"):
        return _SAMPLE_BYTES.get(location.removeprefix("sample://"))
    if "://" not in location:
        path = Path(location).expanduser()
        files = folder_files(path) if path.is_dir() else [path]
        try:
            return float(sum(file.stat().st_size for file in files))
        except OSError:
            return None
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        if not location.startswith("hf://"):
            return _web_bytes(location)
        return _hub_bytes(location) if hub_answers() else None
    except (httpx2.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, MdelError, OSError) as error:
        _log.warning("the size of %s is not known: %s", location, type(error).__name__)
        return None


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub can be reached; its client would try for half a minute, each time."""
    import httpx2
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    try:
        httpx2.head(constants.ENDPOINT, timeout=_TIMEOUT_SECONDS)
    except httpx2.TransportError as error:
        _log.warning("the Hub does not answer (%s): sizes there are not known", error)
        return False
    return True


def _web_bytes(location: str) -> float | None:
    import httpx2

    answer = httpx2.head(location, follow_redirects=True, timeout=_TIMEOUT_SECONDS)
    answer.raise_for_status()
    length = answer.headers.get("content-length")
    return float(length) if length else None


def _hub_bytes(location: str) -> float | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    file = hub_file(location)
    url = hf_hub_url(
        file.repository, file.name, repo_type=file.kind, revision=file.revision or "main"
    )
    found = get_hf_file_metadata(url, timeout=_TIMEOUT_SECONDS, token=find_token() or False)
    return float(found.size) if found.size else None
