"""Publish files: send the files that a repository lacks, in one commit.

Publishing the same files again changes nothing and makes no commit. If the answer to a commit is
lost, the repository is read before anything is sent again. The ``record.json`` among the files says
which of a repository's files a publication created: no others are changed or deleted.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from mdel_assets.errors import PublishingError
from mdel_assets.hub.retries import RetryPolicy, with_retries
from mdel_assets.publishing.backend import (
    Backend,
    Changes,
    Outgoing,
    RemoteState,
    Repository,
    size_of,
)
from mdel_assets.publishing.card_figures import CHART_NAME
from mdel_assets.publishing.cards import CARD_NAME
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Identity, Record

# What the page on the whole experiment is called in a model's repository, if it is there.
REPORT_NAME = "experiment_report.html"
_log = logging.getLogger(__name__)
T = TypeVar("T")
# A dry run reports the current state, without retries.
NO_RETRIES = RetryPolicy(num_attempts=1)
_REMEDY = "Name another repository (names in the experiment's 'hub' section, or --hf-repo)."


@dataclasses.dataclass(frozen=True)
class Published:
    """The outcome of a publication. ``num_files`` and ``size_bytes`` count the sent files."""

    repository: Repository
    revision: str
    url: str
    num_files: int
    size_bytes: int
    is_new: bool


@dataclasses.dataclass(frozen=True)
class Publication:
    """What the record of a publication says: where it went, and the text of which domains it is."""

    location: str
    repository: str
    repository_kind: Literal["dataset", "model"]
    revision: str
    url: str
    made_commit: bool
    domains: list[str]

    @classmethod
    def of(cls, record: Record) -> "Publication":
        """Return what the record of a publication holds."""
        return cls(**record.details)


def write_publication(
    target: Artifact,
    identity: Identity,
    done: Published,
    *,
    location: str,
    domains: Sequence[str],
    files: Mapping[str, bytes],
    num_files: int,
) -> Record:
    """Write the record of what was published, with copies of ``files``; return it."""
    with target.staging() as stage:
        for name, content in files.items():
            (stage / name).write_bytes(content)
        publication = Publication(
            location=location,
            repository=done.repository.name,
            repository_kind=done.repository.kind,
            revision=done.revision,
            url=done.url,
            made_commit=done.is_new,
            domains=list(domains),
        )
        counts = {
            "num_files": num_files,
            "num_sent_files": done.num_files,
            "sent_bytes": done.size_bytes,
        }
        details = dataclasses.asdict(publication)
        return target.publish(stage, identity, counts=counts, details=details)


def publish(
    backend: Backend,
    repository: Repository,
    files: Mapping[str, Outgoing],
    *,
    message: str,
    private: bool,
    retries: RetryPolicy,
) -> Published:
    """Make ``repository`` hold ``files``, in one commit; none if it does already.

    Files of an earlier publication that this one lacks are deleted; other files stay.

    Raises:
        PublishingError: the server refused or stayed unreachable, or holds other content than was
            sent; or the repository holds another publication, or another file of the same name.

    """
    attempted: list[Changes] = []

    def once() -> Published:
        state = backend.state(repository)
        if state is None:
            backend.create(repository, private=private)
            state = backend.state(repository)
        elif private and state.is_private is False:
            _log.warning("%s is public on %s; it stays so", repository, backend.location)
        owned = owned_files(backend, repository, state, files)
        changes = changes_between(state, files, owned=owned)
        _refuse_clashes(backend, repository, state, changes, owned)
        if changes:
            attempted.append(changes)
            backend.commit(repository, changes, message=message, parent=state)
            state = backend.state(repository)
            _require_whole(repository, state, files, owned)
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

    return with_publishing_retries(once, what=f"publishing {repository}", retries=retries)


def with_publishing_retries(action: Callable[[], T], *, what: str, retries: RetryPolicy) -> T:
    """Do as `with_retries`; what fails in the end is a `PublishingError`."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        return with_retries(
            action,
            what=what,
            retries=retries,
            raises=PublishingError,
            remedy="Check the namespace, and that the token may write to it.",
        )
    except OfflineModeIsEnabled as error:
        raise PublishingError(
            f"{what}: HF_HUB_OFFLINE is set, so the Hub cannot be used. Unset it to publish."
        ) from error


def _is_offline(error: Exception) -> bool:
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error.__cause__, OfflineModeIsEnabled)


def owned_files(
    backend: Backend,
    repository: Repository,
    state: RemoteState | None,
    files: Mapping[str, Outgoing],
) -> set[str]:
    """Return the files in a repository from earlier publications of the same artifact.

    Raises:
        PublishingError: the repository holds a publication of another artifact.

    """
    if state is None or RECORD_NAME not in state.files:
        return set()
    earlier = _record_in(backend.read(repository, RECORD_NAME, revision=state.revision))
    if earlier is None:
        return set()
    if RECORD_NAME in files:
        now = _record_in(_content(files[RECORD_NAME]))
        if now and _subject(now) != _subject(earlier):
            raise PublishingError(
                f"{repository} on {backend.location} holds {_subject(earlier)}, and "
                f"{_subject(now)} would replace it. {_REMEDY}"
            )
    return {*earlier["files"], RECORD_NAME, CARD_NAME, CHART_NAME, REPORT_NAME}


def changes_between(
    state: RemoteState | None, files: Mapping[str, Outgoing], *, owned: set[str]
) -> Changes:
    """Return the changes after which a repository holds ``files`` and no other ``owned`` ones."""
    there = state.files if state else {}
    added = {
        name: file
        for name, file in files.items()
        if name not in there or not there[name].holds(file)
    }
    deleted = [name for name in there if name in owned and name not in files]
    return Changes(added, tuple(deleted))


def _refuse_clashes(
    backend: Backend,
    repository: Repository,
    state: RemoteState | None,
    changes: Changes,
    owned: set[str],
) -> None:
    """Refuse to replace files that no publication created."""
    there = state.files if state else {}
    if clashes := sorted(name for name in changes.added if name in there and name not in owned):
        raise PublishingError(
            f"{repository} on {backend.location} holds files of the same names that no publication "
            f"created: {', '.join(clashes[:5])}. {_REMEDY} Or delete these files there."
        )


def _record_in(content: bytes) -> dict[str, Any] | None:
    """Return the record in a file; None if it is not one of our records."""
    try:
        record = json.loads(content)
    except ValueError:
        return None
    wanted = {"kind", "key", "experiment", "files"}
    return record if isinstance(record, dict) and wanted <= record.keys() else None


def _subject(record: Mapping[str, Any]) -> str:
    key = f" '{record['key']}'" if record["key"] else ""
    return f"{record['kind']}{key} of experiment '{record['experiment']}'"


def _content(file: Outgoing) -> bytes:
    return file if isinstance(file, bytes) else file.read_bytes()


def describe(
    backend: Backend,
    repository: Repository,
    files: Mapping[str, Outgoing],
    *,
    private: bool,
) -> list[str]:
    """Return, line by line, what `publish` would do; nothing is sent.

    If the server cannot be reached, the lines say so and list all files as to be sent.
    """
    head = f"{repository} on {backend.location}: "
    state, owned = None, set[str]()
    try:
        state = with_publishing_retries(
            lambda: backend.state(repository), what=f"looking at {repository}", retries=NO_RETRIES
        )
        owned = owned_files(backend, repository, state, files)
    except PublishingError as error:
        if not (error.is_transient or _is_offline(error)):
            raise
        head += "cannot be reached, so its content is unknown; all files would be sent"
    else:
        reader = "private" if private else "public"
        head += (
            f"holds {len(state.files)} files at {state.revision}"
            if state
            else f"would be created ({reader})"
        )
    changes = changes_between(state, files, owned=owned)
    _refuse_clashes(backend, repository, state, changes, owned)
    lines = [head]
    for name, file in sorted(files.items()):
        verb = "send" if name in changes.added else "keep"
        lines.append(f"  {verb:6} {name}  ({size_of(file):,} bytes)")
    lines += [f"  delete {name}" for name in sorted(changes.deleted)]
    foreign = sorted(set(state.files) - owned - files.keys()) if state else []
    lines += [f"  leave  {name}  (no publication created it)" for name in foreign]
    total = sum(map(size_of, changes.added.values()))
    lines.append(
        f"  one commit, {total:,} bytes" if changes else "  no commit: nothing has changed"
    )
    return lines


def _require_whole(
    repository: Repository,
    state: RemoteState | None,
    files: Mapping[str, Outgoing],
    owned: set[str],
) -> None:
    changes = changes_between(state, files, owned=owned)
    if changes:
        names = ", ".join([*changes.added, *changes.deleted][:5])
        raise PublishingError(
            f"{repository} holds other content than was sent ({names}). Someone else may be "
            f"writing to it. Run the same command again."
        )
