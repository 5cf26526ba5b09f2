"""Every error that a user can cause, as one tree.

    MdelError
    ├── ExperimentError            the experiment's YAML is wrong
    │   └── UnknownKeyError        a key or name that does not exist, with the nearest known one
    ├── HomeError                  MDEL_HOME cannot be used
    │   └── DiskError              its disk does not read or write a database
    ├── ArtifactError              an artifact on disk cannot be used
    │   ├── MissingArtifactError   it was never made
    │   ├── ForeignArtifactError   it was made by another experiment
    │   ├── DamagedArtifactError   its files do not match its record
    │   └── DiskFullError          the disk filled while it was written
    ├── ObjectStoreError           an object store does not answer, or refuses
    ├── ShardError                 a shard is truncated, corrupt, empty or too dirty
    │   └── FetchError             a shard could not be fetched whole
    ├── TrainingError              training cannot start or had to stop
    │   └── TrainingInterruptedError  it was stopped in time to save a checkpoint
    ├── WorkerError                a worker that was started for a step failed
    │   └── StorageError           its machine does not share the folder it works in
    ├── LineError                  something of the line was not made
    ├── LimitError                 a run would take more than it may
    ├── WebserverError             a Dagster webserver does not answer, or refuses
    ├── MergeError                 models that cannot be merged
    ├── ScoringError               a model that cannot be scored
    ├── TaskError                  a task of lm-evaluation-harness that cannot be run
    ├── GenerationError            text that cannot be generated
    ├── ServingError               a server of models cannot start, or refuses a request
    ├── HubError                   what was asked of the Hub cannot be had
    └── PublishingError            something that cannot be published
        ├── MissingTokenError      there is no token to publish with
        └── RestrictedDataError    it is made of text that may not be shared

Each message says what was wrong, the value seen, what was expected, and the remedy.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import TypeVar

_ALIKE = 0.8
_NUM_NEAREST, _NUM_KNOWN, _NUM_MISTAKES = 3, 12, 50


class MdelError(Exception):
    """A mistake or mishap that the message tells the user how to mend.

    ``is_transient``: a retry may succeed, as where a server was busy.
    """

    is_transient = False


E = TypeVar("E", bound=MdelError)


def install_extra(name: str) -> str:
    """Return the command that installs one of the package's extras into its own checkout."""
    return f"python -m pip install --constraint constraints.txt --editable '.[{name}]'"


def transient(error: E) -> E:
    """Return ``error``, marked as one that a retry may mend."""
    error.is_transient = True
    return error


class ExperimentError(MdelError):
    """The experiment's YAML cannot be used."""


class UnknownKeyError(ExperimentError):
    """A key or name that does not exist."""


class HomeError(MdelError):
    """A folder for everything that cannot be used."""


class DiskError(HomeError):
    """A database that the disk does not read or write, though it has room."""


class ArtifactError(MdelError):
    """An artifact on disk cannot be used."""


class MissingArtifactError(ArtifactError):
    """An artifact that was never made."""


class ForeignArtifactError(ArtifactError):
    """An artifact that another experiment made."""


class DamagedArtifactError(ArtifactError):
    """An artifact whose files do not match its record."""


class DiskFullError(ArtifactError):
    """The disk, or a quota, filled while an artifact was being written."""


class ObjectStoreError(MdelError):
    """An object store that does not answer, or refuses a request."""


class ShardError(MdelError):
    """A shard that is truncated, corrupt, empty or too dirty."""


class NothingWantedError(ShardError):
    """A shard of which every record can be read, and each is left out on purpose."""


class FetchError(ShardError):
    """A shard that could not be fetched whole."""


class TrainingError(MdelError):
    """Training that cannot start, or had to stop."""


class TrainingInterruptedError(TrainingError):
    """Training that was stopped from outside, with a checkpoint to go on from.

    ``is_cancelled``: by SIGINT, as Ctrl-C and the web UI's "Terminate" send it.
    """

    def __init__(self, message: str, *, is_cancelled: bool = False) -> None:
        super().__init__(message)
        self.is_cancelled = is_cancelled


class WorkerError(MdelError):
    """A worker that could not start, was killed, or failed by no mistake of the user's."""


class StorageError(WorkerError):
    """A folder that two machines were to share, and do not."""


class LineError(MdelError):
    """Something of the line was not made."""


class LimitError(MdelError):
    """A run would take more time or disk than it may."""


class WebserverError(MdelError):
    """A Dagster webserver that does not answer, or refuses."""


class MergeError(MdelError):
    """Models that cannot be merged."""


class ScoringError(MdelError):
    """A model that cannot be scored."""


class TaskError(MdelError):
    """A task of lm-evaluation-harness that cannot be run."""


class GenerationError(MdelError):
    """Text that cannot be generated as it was asked for."""


class ServingError(MdelError):
    """A server of models that cannot start, or that refuses a request."""


class HubError(MdelError):
    """A model, dataset or revision that cannot be had from the Hub."""


class PublishingError(MdelError):
    """Something that cannot be published."""


class MissingTokenError(PublishingError):
    """No token to publish with."""


class RestrictedDataError(PublishingError):
    """Something made of text that may not be shared."""


def listed(mistakes: Sequence[str]) -> str:
    """Return mistakes as they follow a name: one in its line, several in a line each."""
    if len(mistakes) == 1:
        return f": {mistakes[0]}"
    shown = [f"\n- {mistake}" for mistake in mistakes[:_NUM_MISTAKES]]
    more = f"\n- and {len(mistakes) - _NUM_MISTAKES} more" if len(mistakes) > _NUM_MISTAKES else ""
    return f" has {len(mistakes)} mistakes:{''.join(shown)}{more}"


def unknown_name_message(what: str, name: str, known: Iterable[str]) -> str:
    """Return ``Unknown WHAT 'NAME'. Did you mean 'NEAREST'?``, or what is known if nothing is near.

    Named are the three nearest at most, of which all but one are very near, or the first twelve of
    what is known.
    """
    names = list(known)
    alike = difflib.get_close_matches(name, names, n=_NUM_NEAREST, cutoff=_ALIKE)
    if nearest := alike or difflib.get_close_matches(name, names, n=1):
        *others, last = [f"'{near}'" for near in nearest]
        meant = f"{', '.join(others)} or {last}" if others else last
        return f"Unknown {what} '{name}'. Did you mean {meant}?"
    shown = ", ".join(names[:_NUM_KNOWN]) or "none"
    more = f" and {len(names) - _NUM_KNOWN} more" if len(names) > _NUM_KNOWN else ""
    return f"Unknown {what} '{name}'. Known: {shown}{more}."
