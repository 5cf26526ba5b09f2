"""Publishing files: what a repository lacks is sent, in one commit, or nothing is.

The same files a second time change nothing and make no commit. Where a commit's answer was lost,
the repository is looked at again before anything is sent once more.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from mdel_assets.errors import PublishingError
from mdel_assets.publishing.backend import Backend, Changes, Outgoing, RemoteState, Repository
from mdel_assets.retries import Patience, with_patience

_log = logging.getLogger(__name__)
T = TypeVar("T")
# Files that a repository may hold besides what is published.
_LEFT_ALONE = (".", "LICENSE", "LICENCE")


@dataclasses.dataclass(frozen=True)
class Published:
    """What became of a publication. ``num_files`` and ``size_bytes`` count what was sent."""

    repository: Repository
    revision: str
    url: str
    num_files: int
    size_bytes: int
    is_new: bool


def publish(
    backend: Backend,
    repository: Repository,
    files: Mapping[str, Outgoing],
    *,
    message: str,
    private: bool,
    patience: Patience,
) -> Published:
    """Make ``repository`` hold ``files`` and nothing else, in one commit; none if it does already.

    Hidden files and a licence that the repository holds are left alone.

    Raises:
        PublishingError: the server refused or stayed unreachable, or holds something else than was
            sent.

    """
    attempted: list[Changes] = []

    def once() -> Published:
        state = backend.state(repository)
        if state is None:
            backend.create(repository, private=private)
            state = backend.state(repository)
        elif private and state.is_private is False:
            _log.warning("%s is public on %s; it stays so", repository, backend.location)
        changes = changes_between(state, files)
        if changes:
            attempted.append(changes)
            backend.commit(repository, changes, message=message, parent=state)
            state = backend.state(repository)
            _require_whole(repository, state, files)
        assert state is not None
        sent = attempted[0] if attempted else Changes({})
        return Published(
            repository=repository,
            revision=state.revision,
            url=backend.url(repository, state.revision),
            num_files=len(sent.added),
            size_bytes=sum(map(size_of, sent.added.values())),
            is_new=bool(attempted),
        )

    return publishing_with_patience(once, what=f"publishing {repository}", patience=patience)


def publishing_with_patience(action: Callable[[], T], *, what: str, patience: Patience) -> T:
    """Do as `with_patience`; what fails in the end is a `PublishingError`."""
    return with_patience(
        action,
        what=what,
        patience=patience,
        raises=PublishingError,
        remedy="Check the namespace, and that the token may write to it.",
    )


def changes_between(state: RemoteState | None, files: Mapping[str, Outgoing]) -> Changes:
    """Return what makes a repository of ``state`` hold ``files``."""
    there = state.files if state else {}
    added = {
        name: file
        for name, file in files.items()
        if name not in there or not there[name].holds(file)
    }
    deleted = [name for name in there if name not in files and not name.startswith(_LEFT_ALONE)]
    return Changes(added, tuple(deleted))


def describe(
    backend: Backend,
    repository: Repository,
    files: Mapping[str, Outgoing],
    *,
    private: bool,
    patience: Patience,
) -> list[str]:
    """Return, line by line, what `publish` would do; nothing is sent."""
    state = publishing_with_patience(
        lambda: backend.state(repository), what=f"looking at {repository}", patience=patience
    )
    changes = changes_between(state, files)
    reader = "private" if private else "public"
    head = f"{repository} on {backend.location}: "
    if state is None:
        head += f"would be created ({reader})"
    else:
        head += f"holds {len(state.files)} files at {state.revision}"
    lines = [head]
    for name, file in sorted(files.items()):
        verb = "send" if name in changes.added else "keep"
        lines.append(f"  {verb:6} {name}  ({size_of(file):,} bytes)")
    lines += [f"  delete {name}" for name in sorted(changes.deleted)]
    total = sum(map(size_of, changes.added.values()))
    lines.append(
        f"  one commit, {total:,} bytes" if changes else "  no commit: nothing has changed"
    )
    return lines


def size_of(file: Outgoing) -> int:
    """Return how many bytes a file has."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def _require_whole(
    repository: Repository, state: RemoteState | None, files: Mapping[str, Outgoing]
) -> None:
    changes = changes_between(state, files)
    if changes:
        names = ", ".join([*changes.added, *changes.deleted][:5])
        raise PublishingError(
            f"{repository} holds something else than was sent ({names}). Someone else may be "
            f"writing to it: run the same command again."
        )
