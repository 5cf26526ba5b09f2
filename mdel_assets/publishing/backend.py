"""Where publications go: what the Hub and a local folder have in common.

A repository holds files; a revision is what it held at one time. A commit changes any number of
files at once, or none.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from mdel_assets.errors import PublishingError
from mdel_assets.hub.names import name_problem

# A file to publish: where it lies, or its content.
Outgoing = Path | bytes


@dataclasses.dataclass(frozen=True)
class Repository:
    """One repository: ``name`` is ``owner/name``, and such that the Hub takes it.

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

    ``sha256`` is known of large files, ``git_sha1`` of the others.
    """

    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None

    def holds(self, file: Outgoing) -> bool:
        """Whether this is the content of ``file``."""
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        if size != self.size_bytes:
            return False
        if self.sha256:
            return self.sha256 == sha256_of(file)
        return self.git_sha1 == git_sha1_of(file)


@dataclasses.dataclass(frozen=True)
class RemoteState:
    """What a repository holds: its newest revision, and the files of that.

    ``is_private`` is None where the place knows no such thing.
    """

    revision: str
    files: Mapping[str, StoredFile]
    is_private: bool | None = None


@dataclasses.dataclass(frozen=True)
class Changes:
    """What one commit changes."""

    added: Mapping[str, Outgoing]
    deleted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)


class Backend(abc.ABC):
    """A place for repositories. Every method may raise `PublishingError`."""

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """How records and messages name the place."""

    @abc.abstractmethod
    def owner(self) -> str:
        """Return who publishes where the experiment names no namespace."""

    @abc.abstractmethod
    def state(self, repository: Repository) -> RemoteState | None:
        """Return what a repository holds; None where there is none."""

    @abc.abstractmethod
    def read(self, repository: Repository, name: str, *, revision: str) -> bytes:
        """Return the content of a small file that a revision holds."""

    @abc.abstractmethod
    def revision(self, repository: Repository) -> str | None:
        """Return a repository's newest revision; None where there is none."""

    @abc.abstractmethod
    def create(self, repository: Repository, *, private: bool) -> None:
        """Make an empty repository; one that is there already is left as it is."""

    @abc.abstractmethod
    def commit(
        self, repository: Repository, changes: Changes, *, message: str, parent: RemoteState | None
    ) -> str:
        """Apply ``changes`` in one step and return the new revision.

        It is refused where the repository has moved on from ``parent``.
        """

    @abc.abstractmethod
    def delete(self, repository: Repository) -> None:
        """Remove a repository and all its revisions; one that is not there is no error."""

    @abc.abstractmethod
    def loading_name(self, repository: Repository) -> str:
        """Return what a card's snippet loads the repository by."""

    @abc.abstractmethod
    def url(self, repository: Repository, revision: str) -> str:
        """Return where a person looks at a revision."""


def sha256_of(file: Outgoing) -> str:
    """Return the sha256 of a file or content, in hexadecimal."""
    if isinstance(file, bytes):
        return hashlib.sha256(file).hexdigest()
    status = file.stat()
    return _sha256_of_path(file, status.st_size, status.st_mtime_ns)


def git_sha1_of(file: Outgoing) -> str:
    """Return the name that git gives to a file's content."""
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode())
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _sha256_of_path(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Return a file's sha256, read once for as long as size and time of change stay."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Outgoing) -> Iterable[bytes]:
    if isinstance(file, bytes):
        yield file
        return
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            yield block
