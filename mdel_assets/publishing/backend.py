"""The common interface of the places that publications go to: the Hub and a local folder.

A repository holds files; a revision is its content at one time. A commit changes any number of
files at once, or none.
"""

import abc
import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mdel_assets.errors import PublishingError
from mdel_assets.hub.names import name_problem
from mdel_assets.store.digests import sha256_of

# A file to publish: where it lies, or its content.
Outgoing = Path | bytes


@dataclasses.dataclass(frozen=True)
class Repository:
    """One repository; its ``name`` is ``owner/name`` and valid on the Hub.

    Raises:
        PublishingError: the Hub would refuse the name.

    """

    kind: Literal["model", "dataset"]
    name: str

    def __post_init__(self) -> None:
        owner, slash, name = self.name.partition("/")
        problem = name_problem(owner) or name_problem(name)
        if not slash or problem:
            raise PublishingError(
                f"A repository is called OWNER/NAME, got '{self.name}'"
                + (f": {problem}" if problem else "")
                + ". Correct the experiment's 'hub' section, the recipe's name or --hf-repo."
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file as a repository holds it.

    Large files have a ``sha256``, the others a ``git_sha1``.
    """

    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None

    def holds(self, file: Outgoing) -> bool:
        """Whether this is the content of ``file``."""
        if size_of(file) != self.size_bytes:
            return False
        if self.sha256:
            return self.sha256 == content_sha256(file)
        return self.git_sha1 == _git_sha1(file)


@dataclasses.dataclass(frozen=True)
class RemoteState:
    """A repository's newest revision and its files.

    ``is_private`` is None if the place has no private repositories.
    """

    revision: str
    files: Mapping[str, StoredFile]
    is_private: bool | None = None


@dataclasses.dataclass(frozen=True)
class Changes:
    """The changes of one commit."""

    added: Mapping[str, Outgoing]
    deleted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)


class Backend(abc.ABC):
    """A place for repositories. Every method may raise `PublishingError`."""

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """The place's name in records and messages."""

    @abc.abstractmethod
    def owner(self) -> str:
        """Return the default owner, if the experiment names no namespace."""

    @abc.abstractmethod
    def state(self, repository: Repository) -> RemoteState | None:
        """Return a repository's state; None if it does not exist."""

    @abc.abstractmethod
    def read(self, repository: Repository, name: str, *, revision: str) -> bytes:
        """Return the content of a small file that a revision holds."""

    @abc.abstractmethod
    def revision(self, repository: Repository) -> str | None:
        """Return a repository's newest revision; None if it does not exist."""

    @abc.abstractmethod
    def create(self, repository: Repository, *, private: bool) -> None:
        """Create an empty repository; an existing one is left unchanged."""

    @abc.abstractmethod
    def commit(
        self, repository: Repository, changes: Changes, *, message: str, parent: RemoteState | None
    ) -> str:
        """Apply ``changes`` in one step and return the new revision.

        It is refused if the repository's newest revision is no longer ``parent``.
        """

    @abc.abstractmethod
    def delete(self, repository: Repository) -> None:
        """Remove a repository and all its revisions; a missing one is not an error."""

    @abc.abstractmethod
    def loading_name(self, repository: Repository) -> str:
        """Return the name by which a card's snippet loads the repository."""

    @abc.abstractmethod
    def url(self, repository: Repository, revision: str) -> str:
        """Return the address of a revision for a reader."""


def size_of(file: Outgoing) -> int:
    """Return how many bytes a file has."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def content_sha256(file: Outgoing) -> str:
    """Return the sha256 of a file or content, in hexadecimal."""
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    status = file.stat()
    return _file_sha256(file, status.st_size, status.st_mtime_ns)


def _git_sha1(file: Outgoing) -> str:
    """Return the name that git gives to a file's content."""
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as content:
        digest = hashlib.sha1(f"blob {size_of(file)}\0".encode())
        return hashlib.file_digest(content, lambda: digest).hexdigest()


@functools.lru_cache(maxsize=4096)
def _file_sha256(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Return a file's sha256, read once for as long as size and time of change stay."""
    return sha256_of(path)
