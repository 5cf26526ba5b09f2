"""SLURM, through its own commands: sbatch, squeue, scancel, and sacct if there is accounting.

Several jobs are submitted as one array. Their states come from squeue, which remembers ended jobs
for some minutes, and then from sacct. A job in neither is lost; its outcome file says whether it
had succeeded before.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence

from mdel_assets.engines.job_script import UNSHARED, job_script
from mdel_assets.engines.jobs import EngineDownError, JobState, Phase, Work, submit_patiently
from mdel_assets.engines.settings import SlurmSettings
from mdel_assets.errors import WorkerError, transient

_PHASES: dict[str, Phase] = {
    "PENDING": "waiting",
    "CONFIGURING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting",
    "SPECIAL_EXIT": "waiting",
    "RESV_DEL_HOLD": "waiting",
    "COMPLETED": "done",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "interrupted",
    "DEADLINE": "interrupted",
    "PREEMPTED": "interrupted",
    "BOOT_FAIL": "lost",
    "LAUNCH_FAILED": "lost",
    "NODE_FAIL": "lost",
    "OUT_OF_MEMORY": "lost",
}
_FIELDS = "JobArrayID:40|,State:24|,exit_code:12|,BatchHost:64|"
_COMMENT = "mdel:"
# What sbatch says, of SLURM's own errors, where the controller did not answer.
_UNANSWERED = (
    "Unable to contact slurm controller",
    "Communication connection failure",
    "Socket timed out",
    "Zero Bytes were transmitted or received",
    "in standby mode",
)
# One job of an array has the array's own number: an update by $SLURM_JOB_ID would apply to all.
_OWN_ID = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"


class Slurm:
    """A SLURM cluster, reached through this machine's client commands."""

    name = "slurm"
    cancel_command = "scancel"

    def __init__(
        self,
        settings: SlurmSettings,
        *,
        command: Sequence[str],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start workers by ``command``, which is given the specification's path."""
        self.settings = settings
        self.command = command
        self.wait = wait

    def submit(self, submission: str, works: Sequence[Work]) -> list[str]:
        """Submit one job, or an array of several; return their ids.

        Raises:
            WorkerError: sbatch refused it, or there is no sbatch.
            EngineDownError: SLURM did not answer.

        """
        modules = [f"module load {name}" for name in self.settings.modules]
        script = job_script(
            works,
            command=self.command,
            # An array's jobs share a name until each takes its own.
            after_check=[f'scontrol update "JobId={_OWN_ID}" "JobName=$name" 2>/dev/null'],
            before=[*modules, *self.settings.environment],
            training_seconds=self.settings.training_seconds,
            shares_folder=self.settings.shares_folder,
        )
        if modules:
            # Only a login shell has this command.
            script = script.replace("#!/bin/bash", "#!/bin/bash -l", 1)
        command = ["sbatch", "--parsable", *self._options(submission, works)]

        def find() -> str | None:
            first = self.find(submission, 0)
            return first and first.partition("_")[0]

        job = submit_patiently(lambda: _sbatch(command, script), find=find, wait=self.wait)
        return [f"{job}_{index}" for index in range(len(works))] if len(works) > 1 else [job]

    def _options(self, submission: str, works: Sequence[Work]) -> list[str]:
        settings = self.settings
        first = works[0].name
        name = first if len(works) == 1 else f"{first.rsplit('/', 1)[0]}/{len(works)}"
        values = {
            "job-name": name,
            "comment": _COMMENT + submission,
            "output": os.devnull,
            "chdir": "/",
            "account": settings.account,
            "partition": settings.partition,
            "gpus": settings.gpus,
            "cpus-per-task": settings.cpus,
            "time": settings.time_limit_minutes,
        }
        options = [f"--{key}={value}" for key, value in values.items() if value is not None]
        if len(works) > 1:
            at_once = f"%{settings.max_at_once}" if settings.max_at_once else ""
            options.append(f"--array=0-{len(works) - 1}{at_once}")
        # SLURM must not requeue by itself: the outcome decides, which is known here.
        return [*options, "--no-requeue", *settings.options]

    def find(self, submission: str, index: int) -> str | None:
        """Return the id of the job that was submitted under ``submission``."""
        done = _run(["squeue", *_ALL, "--Format=JobArrayID:40|,Comment:80|"])
        if done.returncode:
            raise _not_answered("squeue", done)
        for job, comment in _rows(done.stdout):
            # A job outside an array has no index.
            place = job.partition("_")[2] or "0"
            if comment == _COMMENT + submission and place == str(index):
                return job
        return None

    def states(self, jobs: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job."""
        done = _run(["squeue", *_ALL, f"--Format={_FIELDS}", f"--jobs={','.join(jobs)}"])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise _not_answered("squeue", done)
        found = {}
        for job, word, status, host in _rows(done.stdout):
            code = int(status) if status.isdigit() else 0
            found[job] = _state(word, host=host, exit_code=code >> 8, signal=code & 127)
        missing = [job for job in jobs if job not in found]
        if missing:
            found |= _accounted(missing)
        return {job: found.get(job, JobState("lost", "SLURM has no record of it")) for job in jobs}

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs. SLURM first sends SIGTERM, on which a training saves a checkpoint."""
        if jobs:
            done = _run(["scancel", *jobs])
            if done.returncode and "Invalid job id" not in done.stderr:
                raise _not_answered("scancel", done)


_ALL = ("--noheader", "--array", "--states=all")


def _sbatch(command: Sequence[str], script: str) -> str:
    """Submit a script; return the number of the job or array."""
    done = _run(command, given=script)
    if done.returncode and any(words in done.stderr for words in _UNANSWERED):
        raise _not_answered("sbatch", done)
    if done.returncode:
        raise WorkerError(f"sbatch refused the job: {done.stderr.strip()} ({' '.join(command)})")
    return done.stdout.strip().split(";")[0]


def _accounted(jobs: Sequence[str]) -> dict[str, JobState]:
    """Return the states of ``jobs`` from SLURM's accounting, if there is any."""
    fields = "--format=JobID,State,ExitCode,NodeList"
    command = ["sacct", "--noheader", "--parsable2", "--allocations", fields]
    done = _run([*command, f"--jobs={','.join(jobs)}"])
    if done.returncode:
        return {}
    found = {}
    for job, word, code, host in _rows(done.stdout):
        exit_code, signal = (int(part) for part in code.split(":"))
        # "CANCELLED by 1000"
        found[job] = _state(word.split()[0], host=host, exit_code=exit_code, signal=signal)
    return found


def _state(word: str, *, host: str, exit_code: int, signal: int) -> JobState:
    words = word
    if exit_code == UNSHARED:
        words += ": the job could not read and write the shared folder"
    elif signal:
        words += f" by signal {signal}"
    elif exit_code:
        words += f" with exit status {exit_code}"
    # Every other state, including COMPLETING, counts as running.
    return JobState(_PHASES.get(word, "running"), words, "" if host in ("(null)", "n/a") else host)


def _rows(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.rstrip("|").split("|")] for line in text.splitlines()]


def _run(command: Sequence[str], *, given: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise WorkerError(
            f"There is no {command[0]} on this machine, which compute.engine slurm needs: install "
            f"SLURM's client commands (slurm-client in Debian), or run Dagster where they are."
        ) from None


def _not_answered(command: str, done: subprocess.CompletedProcess[str]) -> EngineDownError:
    said = done.stderr.strip() or f"exit status {done.returncode}"
    return transient(EngineDownError(f"{command} failed: {said}"))
