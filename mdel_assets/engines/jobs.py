"""Jobs, independent of the engine that runs them."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.errors import WorkerError

_log = logging.getLogger(__name__)
_SUBMIT_SECONDS, _ASK_AGAIN_SECONDS = 60.0, 1.0
_Submitted = TypeVar("_Submitted")
Phase = Literal[
    "waiting", "running", "done", "failed", "cancelled", "interrupted", "lost", "unstarted"
]


class EngineDownError(WorkerError):
    """The engine did not answer; its jobs may still be running.

    It is transient where the same submission may succeed later.
    """


@dataclasses.dataclass(frozen=True)
class JobState:
    """The state of a job.

    ``interrupted``: its time was over, or it was preempted. ``lost``: its machine failed, memory
    ran out, or the engine no longer has a record of it. ``unstarted``: it waited so long that the
    engine gave it up. ``words`` are the engine's own description.
    """

    phase: Phase
    words: str = ""
    host: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.phase not in ("waiting", "running")


@dataclasses.dataclass(frozen=True)
class Work:
    """One job to submit: its name, its folder, and its environment variables.

    The job reads ``token`` in the folder and writes it back.
    """

    name: str
    folder: JobFolder
    token: str
    environment: Mapping[str, str]


class Engine(Protocol):
    """A system that starts jobs, reports their states and cancels them."""

    name: str
    # The command with which a person ends a job, given its id.
    cancel_command: str

    def submit(self, submission: str, works: Sequence[Work]) -> list[str]:
        """Start one job for each of ``works`` under the name ``submission``; return their ids."""

    def find(self, submission: str, index: int) -> str | None:
        """Return the id of a submitted job; None if the engine has no record of it."""

    def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return each job's state; raise `EngineDownError` if the engine does not answer."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Tell jobs to end; those that have ended are skipped."""


def submit_patiently(
    submit: Callable[[], _Submitted],
    *,
    find: Callable[[], _Submitted | None],
    wait: Callable[[float], None],
) -> _Submitted:
    """Return what ``submit`` returns; ask an engine that does not answer again, for a minute.

    ``find`` returns the same if the engine accepted the submission and only its answer was lost.

    Raises:
        EngineDownError: the engine still does not answer, or failed in another way.

    """
    until = time.monotonic() + _SUBMIT_SECONDS
    was_sent = False
    while True:
        try:
            found = find() if was_sent else None
            return submit() if found is None else found
        except EngineDownError as error:
            if not error.is_transient or time.monotonic() > until:
                raise
            if not was_sent:
                _log.warning("%s; trying again for %g seconds", error, _SUBMIT_SECONDS)
            was_sent = True
        wait(_ASK_AGAIN_SECONDS)
