"""Shard files on the Hub: parse their names, and ask whether they have changed there."""

import dataclasses
import logging
import re

from mdel_assets.errors import FetchError
from mdel_assets.hub.credentials import find_token

_log = logging.getLogger(__name__)
_SCHEME = "hf://"
_URL = re.compile(r"hf://(datasets|models)/([^/]+/[^/@]+)(?:@([^/]+))?/(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A file of a repository; ``kind`` is ``dataset`` or ``model``."""

    kind: str
    repository: str
    revision: str | None
    name: str


def hub_file(location: str) -> HubFile:
    """Return the file that ``location`` names.

    Raises:
        FetchError: it does not have the expected form.

    """
    match = _URL.fullmatch(location)
    if match is None:
        raise FetchError(
            f"'{location}' is not of the form hf://datasets/OWNER/NAME[@REVISION]/FILE."
        )
    kind, repository, revision, name = match.groups()
    return HubFile(kind.removesuffix("s"), repository, revision, name)


def has_changed(location: str, *, commit: str | None, sha256: str) -> bool:
    """Whether a Hub file's branch has content other than ``sha256`` since ``commit``.

    False if that is unknown: the location is not on the Hub, or the Hub does not answer.
    """
    if not location.startswith(_SCHEME):
        return False
    file = hub_file(location)
    if _COMMIT.fullmatch(file.revision or ""):
        return False
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    url = hf_hub_url(
        file.repository, file.name, repo_type=file.kind, revision=file.revision or "main"
    )
    try:
        found = get_hf_file_metadata(url, timeout=_TIMEOUT_SECONDS, token=find_token() or False)
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.TransportError) as error:
        _log.warning(
            "the Hub does not answer whether %s has changed (%s): the fetched copy is used",
            location,
            type(error).__name__,
        )
        return False
    return found.commit_hash != commit and found.etag != sha256
