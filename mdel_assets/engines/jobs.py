"""Jobs, independent of the engine that runs them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.errors import WorkerError

Phase = Literal[
    "waiting", "running", "done", "failed", "cancelled", "interrupted", "lost", "unstarted"
]


class EngineDownError(WorkerError):
    """The engine did not answer; its jobs may still be running."""


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

    def submit(self, submission: str, works: Sequence[Work]) -> list[str]:
        """Start one job for each of ``works`` under the name ``submission``; return their ids."""

    def find(self, submission: str, index: int) -> str | None:
        """Return the id of a submitted job; None if the engine has no record of it."""

    def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return each job's state; raise `EngineDownError` if the engine does not answer."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Tell jobs to end; those that have ended are skipped."""
