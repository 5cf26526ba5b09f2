"""What a job is, whatever engine runs it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.errors import WorkerError

Phase = Literal[
    "waiting", "running", "done", "failed", "cancelled", "interrupted", "lost", "unstarted"
]


class EngineDownError(WorkerError):
    """The engine did not answer; its jobs may well go on."""


@dataclasses.dataclass(frozen=True)
class JobState:
    """How a job stands.

    ``interrupted``: its time was over, or another job went first. ``lost``: its machine failed, its
    memory was not enough, or the engine knows it no more. ``unstarted``: it waited so long for its
    turn that the engine gave it up. ``words`` are the engine's own.
    """

    phase: Phase
    words: str = ""
    host: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the job runs any more."""
        return self.phase not in ("waiting", "running")


@dataclasses.dataclass(frozen=True)
class Work:
    """One job to submit: its name, its folder, and what its environment is to hold.

    ``token`` is what it is to read in the folder, and to write there.
    """

    name: str
    folder: JobFolder
    token: str
    environment: Mapping[str, str]


class Engine(Protocol):
    """What starts jobs, knows how they stand and cancels them."""

    name: str

    def submit(self, submission: str, works: Sequence[Work]) -> list[str]:
        """Start one job for each of ``works`` under the name ``submission``; return their ids."""

    def find(self, submission: str, index: int) -> str | None:
        """Return the id of a job that was submitted, or nothing where the engine knows of none."""

    def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return how each job stands; raise `EngineDownError` where the engine does not answer."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Tell jobs to end; those that have ended are passed over."""
