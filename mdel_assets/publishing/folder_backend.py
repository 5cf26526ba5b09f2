"""A local folder instead of the Hub.

    <folder>/<kind>s/<owner>/<name>/<revision>/...   the files of one revision
    <folder>/<kind>s/<owner>/<name>/main             a link to the newest

A revision's name is a digest of its files. A commit writes a staging folder, renames it, and
updates the link; files shared with the previous revision are linked, not copied.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from mdel_assets.errors import PublishingError
from mdel_assets.publishing.backend import (
    Backend,
    Changes,
    Outgoing,
    RemoteState,
    Repository,
    StoredFile,
    content_sha256,
)
from mdel_assets.store.digests import sha256_of
from mdel_assets.store.durable_files import exclusively, explaining_full_disk, link_or_copy, sync

_SCHEME = "file:"
_MAIN = "main"
_REVISION_DIGITS = 40


class FolderBackend(Backend):
    """Repositories under a folder, for use without a Hub. It needs no token."""

    def __init__(self, endpoint: str) -> None:
        path = endpoint.removeprefix(_SCHEME)
        # file:///folder and file:folder are both in use.
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path:
            raise PublishingError("hub.endpoint is 'file:' without a folder: write file:FOLDER.")
        self.root = Path(path).expanduser()

    @property
    def location(self) -> str:
        """The folder, with the prefix ``file:``."""
        return f"{_SCHEME}{self.root}"

    def owner(self) -> str:
        """Return the default namespace."""
        return "local"

    def revision(self, repository: Repository) -> str | None:
        """Return the revision that ``main`` links to."""
        main = self._folder(repository) / _MAIN
        return main.readlink().name if main.is_dir() else None

    def state(self, repository: Repository) -> RemoteState | None:
        """Return the revision that ``main`` links to, with a digest of every file."""
        main, revision = self._folder(repository) / _MAIN, self.revision(repository)
        if revision is None:
            return None
        files = {
            str(path.relative_to(main)): StoredFile(
                path.stat().st_size, sha256=content_sha256(path)
            )
            for path in sorted(main.rglob("*"))
            if path.is_file()
        }
        return RemoteState(revision, files)

    def read(self, repository: Repository, name: str, *, revision: str) -> bytes:
        """Return the content of a revision's file."""
        return (self._folder(repository) / revision / name).read_bytes()

    def create(self, repository: Repository, *, private: bool) -> None:
        """Create the repository's folder; its owner decides who may read it."""
        self._folder(repository).mkdir(parents=True, exist_ok=True)

    def commit(
        self, repository: Repository, changes: Changes, *, message: str, parent: RemoteState | None
    ) -> str:
        """Write a revision into a staging folder, rename it, and let ``main`` link to it."""
        folder = self._folder(repository)
        with exclusively(folder / ".lock"), explaining_full_disk(str(repository), folder):
            before = self.state(repository)
            if (before and before.revision) != (parent and parent.revision):
                raise PublishingError(
                    f"{repository} in {self.root} was changed by another process meanwhile. Run "
                    f"the same command again."
                )
            stage = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder))
            stage.chmod(0o755)
            try:
                kept = {} if before is None else before.files
                for name in kept:
                    if name not in changes.added and name not in changes.deleted:
                        (stage / name).parent.mkdir(parents=True, exist_ok=True)
                        link_or_copy((folder / _MAIN / name).resolve(), stage / name)
                for name, file in changes.added.items():
                    _write(file, stage / name)
                revision = sha256_of(stage)[:_REVISION_DIGITS]
                if not (folder / revision).exists():
                    stage.rename(folder / revision)
                _lead(folder / _MAIN, revision)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
            sync(folder)
        return revision

    def delete(self, repository: Repository) -> None:
        """Remove the repository's folder."""
        shutil.rmtree(self._folder(repository), ignore_errors=True)

    def loading_name(self, repository: Repository) -> str:
        """Return the path relative to the folder, in which the snippet is to be run."""
        return f"{repository.kind}s/{repository.name}/{_MAIN}"

    def url(self, repository: Repository, revision: str) -> str:
        """Return the revision's folder."""
        return str(self._folder(repository) / revision)

    def _folder(self, repository: Repository) -> Path:
        return self.root / f"{repository.kind}s" / repository.name


def _write(file: Outgoing, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file, bytes):
        target.write_bytes(file)
    else:
        shutil.copyfile(file, target)
    sync(target)


def _lead(link: Path, revision: str) -> None:
    """Let ``link`` point to ``revision``, atomically."""
    aside = link.with_name(f".{link.name}-{revision}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(revision)
    os.replace(aside, link)
