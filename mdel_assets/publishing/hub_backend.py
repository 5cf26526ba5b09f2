"""The Hub, or another server that speaks its protocol."""

import tempfile
from pathlib import Path
from typing import Any

from mdel_assets.errors import PublishingError
from mdel_assets.publishing.backend import (
    Backend,
    Changes,
    RemoteState,
    Repository,
    StoredFile,
)

_TIMEOUT_SECONDS = 10.0


class HubBackend(Backend):
    """Repositories on the Hub. Large files go through Xet, or LFS with ``HF_HUB_DISABLE_XET``.

    Files uploaded before a commit failed are not uploaded again.
    """

    def __init__(self, endpoint: str | None, *, token: str) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()

        self._api: Any = HfApi(endpoint=endpoint, token=token, library_name="mdel-assets")

    @property
    def location(self) -> str:
        """The server's address."""
        return str(self._api.endpoint)

    def owner(self) -> str:
        """Return the name of the token's user."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return str(self._api.whoami()["name"])
        except HfHubHTTPError as error:
            if error.response.status_code != 401:
                raise
            raise PublishingError(
                f"{self.location} does not accept the token. Create a token with write access and "
                f"set HF_TOKEN to it."
            ) from None

    def revision(self, repository: Repository) -> str | None:
        """Return the newest commit of the branch ``main``."""
        found = self._info(repository)
        return found and found.sha

    def _info(self, repository: Repository) -> Any | None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return self._api.repo_info(
                repository.name, repo_type=repository.kind, timeout=_TIMEOUT_SECONDS
            )
        except RepositoryNotFoundError:
            return None

    def state(self, repository: Repository) -> RemoteState | None:
        """Return the newest commit of the branch ``main``, and its files."""
        found = self._info(repository)
        if found is None:
            return None
        where = {"repo_id": repository.name, "repo_type": repository.kind}
        tree = self._api.list_repo_tree(**where, revision=found.sha, recursive=True)
        files = {entry.path: _stored(entry) for entry in tree if hasattr(entry, "blob_id")}
        return RemoteState(found.sha, files, is_private=found.private)

    def read(self, repository: Repository, name: str, *, revision: str) -> bytes:
        """Return the content of a revision's file, fetched without the cache."""
        with tempfile.TemporaryDirectory() as folder:
            path = self._api.hf_hub_download(
                repository.name,
                name,
                repo_type=repository.kind,
                revision=revision,
                local_dir=folder,
            )
            return Path(path).read_bytes()

    def create(self, repository: Repository, *, private: bool) -> None:
        """Make the repository."""
        self._api.create_repo(
            repository.name, repo_type=repository.kind, private=private, exist_ok=True
        )

    def commit(
        self, repository: Repository, changes: Changes, *, message: str, parent: RemoteState | None
    ) -> str:
        """Upload the files that the Hub lacks, then make one commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [
            CommitOperationAdd(path, file if isinstance(file, bytes) else str(file))
            for path, file in changes.added.items()
        ]
        operations += [CommitOperationDelete(path) for path in changes.deleted]
        made = self._api.create_commit(
            repository.name,
            operations,
            commit_message=message,
            repo_type=repository.kind,
            parent_commit=parent.revision if parent else None,
        )
        return str(made.oid)

    def delete(self, repository: Repository) -> None:
        """Remove the repository."""
        self._api.delete_repo(repository.name, repo_type=repository.kind, missing_ok=True)

    def loading_name(self, repository: Repository) -> str:
        """Return the repository's id."""
        return repository.name

    def url(self, repository: Repository, revision: str) -> str:
        """Return the address of the revision's page."""
        prefix = "datasets/" if repository.kind == "dataset" else ""
        return f"{self.location}/{prefix}{repository.name}/tree/{revision}"


def _stored(entry: Any) -> StoredFile:
    if entry.lfs:
        return StoredFile(entry.size, sha256=entry.lfs.sha256)
    return StoredFile(entry.size, git_sha1=entry.blob_id)
