"""Ray, through its own job client, which talks to the dashboard of a cluster.

Each model is a Ray job: a command that runs on any node with enough resources. A job outlives this
process, and has a name that is chosen before it starts.
"""

import contextlib
import functools
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from mdel_assets.engines.job_folder import token
from mdel_assets.engines.job_script import UNSHARED, job_script
from mdel_assets.engines.jobs import EngineDownError, JobState, Phase, Work, submit_patiently
from mdel_assets.engines.settings import RaySettings
from mdel_assets.errors import WorkerError, install_extra, transient

# A cluster that has just started answers before it can take jobs.
_STARTING = "No available agent"
_PHASES: dict[str, Phase] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "STOPPED": "cancelled",
}


class RayJobs:
    """A Ray cluster, reached through its dashboard's address."""

    name = "ray"
    cancel_command = "ray job stop"

    def __init__(
        self,
        settings: RaySettings,
        *,
        command: Sequence[str],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start workers by ``command``, which is given the specification's path."""
        self.settings = settings
        self.command = command
        self.wait = wait
        self._client: Any = None

    def submit(self, submission: str, works: Sequence[Work]) -> list[str]:
        """Submit a job for each of ``works``; return their ids.

        Raises:
            WorkerError: Ray refused it or is not installed.
            EngineDownError: Ray did not answer.

        """
        settings = self.settings
        jobs = []
        for index, work in enumerate(works):
            script = job_script(
                [work],
                command=self.command,
                before=settings.environment,
                shares_folder=settings.shares_folder,
            )
            job = functools.partial(
                self._ask,
                "submit_job",
                submission_id=_job(submission, index),
                # exec replaces the shell that Ray starts, so that signals reach the worker.
                entrypoint=f"exec bash -c {shlex.quote(script)}",
                metadata={"job_name": work.name},
                entrypoint_num_cpus=settings.num_cpus,
                entrypoint_num_gpus=settings.num_gpus,
                entrypoint_resources=settings.resources or None,
            )
            found = functools.partial(self.find, submission, index)
            jobs.append(submit_patiently(job, find=found, wait=self.wait))
        return jobs

    def find(self, submission: str, index: int) -> str | None:
        """Return the id of a submitted job, if Ray has a record of it."""
        job = _job(submission, index)
        return job if self._info(job) is not None else None

    def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job."""
        return {job: _state(self._info(job)) for job in jobs}

    def cancel(self, jobs: Sequence[str]) -> None:
        """Stop jobs. Ray first sends SIGTERM, on which a training saves a checkpoint."""
        for job in jobs:
            with contextlib.suppress(_UnknownJobError):
                self._ask("stop_job", job)

    def _info(self, job: str) -> Any:
        try:
            return self._ask("get_job_info", job)
        except _UnknownJobError:
            return None

    def _ask(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Call ``what`` on Ray's client; convert its errors to ours."""
        make_client = _client_class()
        try:
            if self._client is None:
                self._client = make_client(self.settings.address)
            return getattr(self._client, what)(*arguments, **options)
        except RuntimeError as error:
            if "status code 404" in str(error):
                raise _UnknownJobError from error
            if "status code 4" in str(error):
                raise WorkerError(f"Ray refused the job: {error}") from error
            down = EngineDownError(f"Ray failed: {error}")
            raise (transient(down) if _STARTING in str(error) else down) from error
        except OSError as error:
            place = self.settings.address or "RAY_ADDRESS"
            raise transient(
                EngineDownError(
                    f"Ray's dashboard at {place} (compute.ray.address) does not answer: {error}"
                )
            ) from error


class _UnknownJobError(Exception):
    pass


def _job(submission: str, index: int) -> str:
    return f"mdel-{token(submission, index)}"


def _state(info: Any) -> JobState:
    if info is None:
        return JobState("lost", "Ray has no record of it")
    status = str(getattr(info.status, "value", info.status))
    code = info.driver_exit_code
    if status != "FAILED":
        return JobState(_PHASES[status], status)
    if "START_TIMEOUT" in str(info.error_type):
        return JobState("unstarted", "no node had free resources in time")
    if code is None:
        return JobState("lost", f"{status}: {info.message}")
    if code == UNSHARED:
        return JobState("failed", f"{status}: the job could not read and write the shared folder")
    words = f"by signal {-code}" if code < 0 else f"with exit status {code}"
    return JobState("failed", f"{status} {words}")


def _client_class() -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise WorkerError(
            "compute.engine ray needs Ray's client, which is not installed: install the extra "
            f"'ray' ({install_extra('ray')}), in the version of the cluster."
        ) from error
    return JobSubmissionClient
