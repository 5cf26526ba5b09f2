"""Models and datasets from the Hub: a revision is resolved to a commit before anything is read.

A branch moves; a commit does not. Artifacts made from the Hub record the commit, and are stale once
the branch has moved on. If the Hub cannot be reached, the last known commit is used.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mdel_assets.errors import HubError
from mdel_assets.hub.credentials import find_token
from mdel_assets.hub.names import name_problem
from mdel_assets.hub.retries import RetryPolicy, with_retries
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.durable_files import write_text_atomically

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 10.0
_LOOKING_UP = RetryPolicy(num_attempts=3, first_wait_seconds=0.5, longest_told_seconds=10.0)
_FETCHING = RetryPolicy(num_attempts=6)
# The files of a model to fetch: no pickles, no code, no other frameworks' weights.
MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")
Kind = Literal["model", "dataset"]


@dataclasses.dataclass(frozen=True)
class HubReference:
    """A repository of the Hub, at a branch, a tag or a commit."""

    name: str
    revision: str
    kind: Kind = "model"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never moves."""
        return _COMMIT.fullmatch(self.revision) is not None


def hub_reference(
    path: str, *, revision: str = "main", kind: Kind = "model"
) -> HubReference | None:
    """Return the repository that ``path`` names; None if it is a folder or anything else.

    The revision in ``owner/name@revision`` overrides ``revision``.
    """
    match = _HUB_ID.fullmatch(path)
    if match is None or Path(path).expanduser().exists():
        return None
    if any(map(name_problem, match["name"].split("/"))):
        return None
    return HubReference(match["name"], match["revision"] or revision, kind)


def resolve_commit(reference: HubReference, *, recorded: str | None = None) -> str:
    """Return the current commit of ``reference``.

    Offline, or if the Hub does not answer, it is the one in the Hub client's cache, else
    ``recorded``, the one that was used last.

    Raises:
        HubError: the repository or revision does not exist, or no commit of it is known.

    """
    if reference.is_pinned:
        return reference.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    api: Any = HfApi(token=find_token() or False, library_name="mdel-assets")

    def ask() -> str:
        found = api.repo_info(
            reference.name,
            revision=reference.revision,
            repo_type=reference.kind,
            timeout=_TIMEOUT_SECONDS,
        )
        return str(found.sha)

    try:
        return with_retries(
            ask,
            what=f"looking up {reference}",
            retries=_LOOKING_UP,
            remedy="Check the name and the revision, and HF_TOKEN if it is private. There is no "
            "folder of that name, either.",
        )
    except OfflineModeIsEnabled as error:
        return _last_known(reference, recorded, error)
    except HubError as error:
        if not error.is_transient:
            raise
        return _last_known(reference, recorded, error)


def _last_known(reference: HubReference, recorded: str | None, error: Exception) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    api: Any = HfApi(token=False)
    try:
        known = api.resolve_revision(
            reference.name,
            revision=reference.revision,
            repo_type=reference.kind,
            local_files_only=True,
        ).resolved
    except RevisionResolutionError:
        known = recorded
    if known is None:
        raise HubError(
            f"{reference} cannot be looked up ({type(error).__name__}), and is not in the cache. "
            f"Fetch it once while the Hub can be reached (hf download {reference.name}), or name a "
            f"folder."
        ) from error
    _log.warning("the Hub cannot be reached for %s: its last known commit is used", reference)
    return str(known)


def fetch_model(reference: HubReference, commit: str) -> Path:
    """Return a folder with the model's safetensors, configuration and tokenizer, fetched once.

    Raises:
        HubError: it cannot be fetched, or has no safetensors weights.

    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch() -> Path:
        folder = snapshot_download(
            reference.name,
            revision=commit,
            allow_patterns=list(MODEL_FILES),
            ignore_patterns=["*/*", "consolidated*"],
            token=find_token() or False,
            library_name="mdel-assets",
        )
        return Path(folder)

    what = f"fetching {reference.name} at {commit}"
    try:
        folder = with_retries(fetch, what=what, retries=_FETCHING)
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{what}: it is not in the cache, and HF_HUB_OFFLINE is set ({error}). Unset "
            f"HF_HUB_OFFLINE, or name a folder."
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise HubError(
            f"{reference.name} at {commit} has no safetensors weights; other formats are not read. "
            f"Convert it (model.save_pretrained) and name the folder or the new repository."
        )
    _remember(reference, commit)
    return folder


def is_fetched(reference: HubReference) -> bool:
    """Whether the Hub client's cache has the weights of a model."""
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "model.safetensors.index.json")
    found = (
        try_to_load_from_cache(reference.name, name, revision=reference.revision) for name in names
    )
    return any(isinstance(path, str) for path in found)


def at_commit(source: Mapping[str, Any], artifact: Artifact, *, place: str) -> dict[str, Any]:
    """Return a model source in which a Hub id has its commit as revision; others unchanged.

    ``artifact`` is the artifact made from it before, ``place`` the resolved path.
    """
    reference = hub_reference(place, revision=source["revision"])
    if reference is None:
        return dict(source)
    record = artifact.last_record()
    recorded = None
    if record and record.config.get("path") == reference.name:
        recorded = record.config.get("commit")
    commit = resolve_commit(reference, recorded=recorded)
    kept = {name: value for name, value in source.items() if name != "revision"}
    return kept | {"path": reference.name, "commit": commit}


def local_model(path: str, *, revision: str = "main", commit: str | None) -> str:
    """Return ``path``, or the folder into which the Hub model was fetched at ``commit``."""
    reference = hub_reference(path, revision=revision)
    if reference is None or commit is None:
        return path
    return str(fetch_model(reference, commit))


def _remember(reference: HubReference, commit: str) -> None:
    """Store a branch's commit in the Hub client's cache, so that it is known offline."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if not reference.is_pinned:
        folder = repo_folder_name(repo_id=reference.name, repo_type=reference.kind)
        ref = Path(constants.HF_HUB_CACHE) / folder / "refs" / reference.revision
        write_text_atomically(ref, commit)
