"""Manage jobs from submission to end, on any engine.

A job that saved a checkpoint because its time was over is requeued, and so is a killed job. A job
that failed with an error, or that someone cancelled, fails only its own artifact. If this process
is told to end, it cancels its jobs. If it is killed, a note next to each specification lets the
next run take the job over.
"""

import dataclasses
import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mdel_assets.engines.job_folder import (
    JobFolder,
    Note,
    folders_at_work,
    refuse_foreign_note,
    token,
)
from mdel_assets.engines.jobs import Engine, EngineDownError, JobState, Work
from mdel_assets.engines.returned import collect, require_store
from mdel_assets.engines.settings import QueueSettings
from mdel_assets.engines.worker_spec import WorkerSpec, raise_outcome
from mdel_assets.errors import (
    MdelError,
    ObjectStoreError,
    StorageError,
    TrainingInterruptedError,
    WorkerError,
)

_log = logging.getLogger(__name__)
_AGAIN = "Run the same command again: trainings, scorings and searches resume."


class Listener(Protocol):
    """A receiver of the jobs' messages."""

    def open(self, key: str, folder: JobFolder) -> Mapping[str, str]:
        """Begin to listen to a job; return the environment variables that the job needs for it."""

    def pass_on(self, key: str) -> None:
        """Forward a job's new messages."""

    def close(self, key: str) -> None:
        """Listen no more."""


@dataclasses.dataclass
class QueuedJob:
    """What one job makes, and its progress; ``key`` names it in messages, ``name`` in the queue.

    ``resumes``: a job that was stopped is gone on with by the next one, which may be as often as it
    takes. Else the next one begins anew, which counts as a retry.
    """

    key: str
    name: str
    spec: WorkerSpec
    folder: JobFolder
    resumes: bool = True
    note: Note | None = None
    num_requeues: int = 0
    num_retries: int = 0
    host: str | None = None
    # When it was first seen running, or ended, without an answer in the shared folder.
    silent_since: float | None = None
    is_settled: bool = False
    error: MdelError | None = None

    @property
    def id(self) -> str:
        """The engine's name for the job."""
        return self.note.job if self.note else ""

    def settle(self, error: MdelError | None) -> None:
        """Note that no job of this artifact runs any more, and its error, if any."""
        self.error = error
        self.is_settled = True
        self.folder.forget_note()


class Queue:
    """Manages jobs on one engine."""

    def __init__(
        self,
        engine: Engine,
        settings: QueueSettings,
        *,
        listener: Listener,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.listener = listener
        self.wait = wait
        self.is_down = False

    def run(self, jobs: Sequence[QueuedJob]) -> None:
        """Run all jobs to their end; each then has its error, if it failed.

        Raises:
            WorkerError: the engine accepts no jobs, or cannot report on an earlier one or end it.

        """
        try:
            if not self.settings.shares_folder:
                for job in jobs:
                    require_store(job.spec)
            if fresh := self._take_over(jobs):
                self._submit(fresh)
            while waiting := [job for job in jobs if not job.is_settled]:
                self._look_at(waiting)
                if not all(job.is_settled for job in waiting):
                    self.wait(self.settings.poll_seconds)
        except BaseException:
            try:
                self._cancel([job for job in jobs if not job.is_settled])
            except MdelError as error:
                # The reason for ending this process is what the user must see; the notes stay.
                _log.warning("jobs could not be cancelled: %s", error)
            raise
        finally:
            for job in jobs:
                self.listener.close(job.key)

    def _take_over(self, jobs: Sequence[QueuedJob]) -> list[QueuedJob]:
        """Take over jobs of killed runs that have the same specification; return the others.

        Whatever else of earlier runs makes some of the same artifacts is cancelled first.
        """
        wanted = {job.folder: job for job in jobs}
        artifacts = {(job.spec.kind, key) for job in jobs for key in job.spec.keys}
        folders = dict.fromkeys(wanted)
        for parent in {folder.path.parent for folder in wanted}:
            folders |= dict.fromkeys(folders_at_work(parent, artifacts))
        found = {folder: note for folder in folders if (note := self._earlier(folder))}
        same = {
            folder: note
            for folder, note in found.items()
            if folder in wanted and folder.has_spec(wanted[folder].spec) and not note.is_cancelled
        }
        self._end_earlier({folder: note for folder, note in found.items() if folder not in same})
        for folder, note in same.items():
            job = wanted[folder]
            _log.info("job %s of an earlier run still makes %s: waiting for it", note.job, job.name)
            job.note = note
            self.listener.open(job.key, folder)
        return [job for job in jobs if job.folder not in same]

    def _earlier(self, folder: JobFolder) -> Note | None:
        """Return the note of an earlier run's job that has not ended, with the job's id."""
        note = folder.note()
        if note is None:
            return None
        refuse_foreign_note(folder, engine=self.engine.name)
        number = note.job or self.engine.find(note.submission, note.index)
        if number is None or self.engine.states([number])[number].is_over:
            folder.forget_note()
            return None
        return dataclasses.replace(note, job=number)

    def _end_earlier(self, found: Mapping[JobFolder, Note]) -> None:
        """Cancel jobs of earlier runs and wait for their end; keep the note of one that goes on."""
        if not found:
            return
        numbers = [note.job for note in found.values()]
        _log.info("cancelling %s of earlier runs: what they make is made anew", ", ".join(numbers))
        for folder, note in found.items():
            folder.write_note(dataclasses.replace(note, is_cancelled=True))
        self.engine.cancel(numbers)
        ended = self._wait_for_end(numbers, seconds=self.settings.cancel_seconds)
        for folder, note in found.items():
            if note.job in ended:
                folder.forget_note()
        if late := " ".join(number for number in numbers if number not in ended):
            raise WorkerError(
                f"Job {late} of an earlier run makes some of the same. It was cancelled and has "
                f"not ended after {self.settings.cancel_seconds:g} seconds "
                f"({self.engine.name}.cancel_seconds). Wait until it has ended, or end it "
                f"(`{self.engine.cancel_command} {late}`), and run the same command again."
            )

    def _submit(self, jobs: Sequence[QueuedJob]) -> None:
        submission = secrets.token_hex(8)
        works = []
        for index, job in enumerate(jobs):
            # The note is written before the job exists, which is found by its submission's name.
            job.note = Note(self.engine.name, submission, index)
            job.folder.prepare(job.spec, job.note)
            job.host = job.silent_since = None
            environment = self.listener.open(job.key, job.folder)
            if not self.settings.shares_folder:
                # Its messages go by the store, as output, once it has ended.
                environment = {}
            works.append(Work(job.name, job.folder, token(submission, index), environment))
        for job, number in zip(jobs, self.engine.submit(submission, works), strict=True):
            self._note_number(job, number)

    def _note_number(self, job: QueuedJob, number: str) -> None:
        assert job.note is not None
        job.note = dataclasses.replace(job.note, job=number)
        job.folder.write_note(job.note)
        _log.info("%s waits in the queue of %s as job %s", job.name, self.engine.name, number)

    def _find_or_submit(self, job: QueuedJob) -> None:
        """Submit a job again whose submission was not answered, unless the engine has it."""
        assert job.note is not None
        number = self.engine.find(job.note.submission, job.note.index)
        if number:
            self._note_number(job, number)
        else:
            self._submit_again(job)

    def _look_at(self, jobs: Sequence[QueuedJob]) -> None:
        try:
            for job in jobs:
                if not job.id:
                    self._find_or_submit(job)
            jobs = [job for job in jobs if job.id]
            if not jobs:
                return
            states = self.engine.states([job.id for job in jobs])
        except EngineDownError as error:
            if not self.is_down:
                _log.warning("%s; its jobs may still run: waiting until it answers", error)
            self.is_down = True
            return
        self.is_down = False
        for job in jobs:
            self._look_at_one(job, states[job.id])

    def _look_at_one(self, job: QueuedJob, state: JobState) -> None:
        assert job.note is not None
        if not self.settings.shares_folder:
            job.host = job.host or state.host or "its host"
            if state.is_over and not self._is_collected(job):
                return
        self.listener.pass_on(job.key)
        if job.host is None and (host := job.folder.answer(job.note)):
            job.host = host
            job.silent_since = None
            _log.info("%s runs as job %s on %s; storage is shared", job.name, job.id, host)
        if state.is_over:
            self._end(job, state)
        elif job.host is None and state.phase == "running" and self._is_silent_for_long(job):
            self.engine.cancel([job.id])
            job.settle(self._unshared(job, state))

    def _is_collected(self, job: QueuedJob) -> bool:
        """Collect how a job ended; return False where the store does not answer for now."""
        assert job.note is not None
        try:
            collect(job.folder, job.spec, name=token(job.note.submission, job.note.index))
        except ObjectStoreError as error:
            _log.warning("%s; how job %s ended is not known yet", error, job.id)
            return False
        return True

    def _is_silent_for_long(self, job: QueuedJob) -> bool:
        now = time.monotonic()
        if job.silent_since is None:
            job.silent_since = now
        return now - job.silent_since > self.settings.storage_seconds

    def _end(self, job: QueuedJob, state: JobState) -> None:
        """Settle a job that has ended, or requeue it."""
        if job.folder.has_outcome():
            error = _outcome(job)
            if error is None or not isinstance(error, TrainingInterruptedError):
                job.settle(error)
                return
        elif state.phase == "done" and not self._is_silent_for_long(job):
            # It succeeded, so its outcome must arrive soon.
            return
        else:
            error = None
        if state.phase == "unstarted":
            _log.info("job %s (%s) is requeued: %s", job.id, job.name, state.words)
            self._submit_again(job)
        elif state.phase == "cancelled":
            job.settle(
                WorkerError(
                    f"Job {job.id} ({job.name}) was cancelled outside of Dagster "
                    f"({state.words}). {_AGAIN}"
                )
            )
        elif error is not None or (state.phase == "interrupted" and job.resumes):
            self._requeue(job, error, state)
        elif job.host is None and state.phase in ("done", "failed"):
            job.settle(self._unshared(job, state))
        else:
            self._retry(job, state)

    def _requeue(self, job: QueuedJob, error: MdelError | None, state: JobState) -> None:
        why = str(error or f"its time was over ({state.words}). {_AGAIN}")
        if job.num_requeues >= self.settings.max_requeues:
            job.settle(
                TrainingInterruptedError(
                    f"Job {job.id} ({job.name}) ended before its work was finished, and was "
                    f"requeued {job.num_requeues} times ({self.engine.name}.max_requeues): {why}"
                )
            )
            return
        job.num_requeues += 1
        _log.info("job %s (%s) is requeued: %s", job.id, job.name, why)
        self._submit_again(job)

    def _retry(self, job: QueuedJob, state: JobState) -> None:
        place = f"{state.words} on {job.host or state.host or 'no host'}"
        if job.num_retries >= self.settings.max_retries:
            said = job.folder.last_output()
            job.settle(
                WorkerError(
                    f"Job {job.id} ({job.name}) was killed ({place}), as were {job.num_retries} "
                    f"before it ({self.engine.name}.max_retries). End of its output: "
                    f"{said or 'none'} (all of it: {job.folder.output}). {_AGAIN}"
                )
            )
            return
        job.num_retries += 1
        _log.warning("job %s (%s) was killed (%s): retrying", job.id, job.name, place)
        self._submit_again(job)

    def _submit_again(self, job: QueuedJob) -> None:
        self.listener.close(job.key)
        try:
            self._submit([job])
        except WorkerError as error:
            if isinstance(error, EngineDownError) and error.is_transient:
                _log.warning("%s; %s is submitted once it answers", error, job.name)
                return
            # Others continue; if the engine did accept the job, the next run finds its note.
            job.error, job.is_settled = error, True

    def _unshared(self, job: QueuedJob, state: JobState) -> StorageError:
        here = socket.gethostname()
        there = job.host or state.host or "its host"
        return StorageError(
            f"Job {job.id} ({job.name}) on {there} and Dagster on {here} do not share "
            f"{job.folder.path} ({state.words}): one could not read what the other wrote there. "
            f"MDEL_HOME must be on storage that both mount at the same path and can write to."
        )

    def _cancel(self, jobs: Sequence[QueuedJob]) -> None:
        """Cancel jobs, and give them time to save a checkpoint."""
        running = []
        for job in jobs:
            if job.note is None:
                continue
            number = job.id or self.engine.find(job.note.submission, job.note.index)
            job.folder.write_note(
                dataclasses.replace(job.note, job=number or "", is_cancelled=True)
            )
            if number:
                running.append(number)
        if not running:
            return
        _log.info("cancelling %s on %s", ", ".join(running), self.engine.name)
        self.engine.cancel(running)
        ended = self._wait_for_end(running, seconds=self.settings.cancel_seconds)
        for job in jobs:
            self.listener.pass_on(job.key)
            if job.id in ended:
                job.folder.forget_note()

    def _wait_for_end(self, numbers: Sequence[str], *, seconds: float) -> set[str]:
        """Wait for cancelled jobs to end; return those that did in time."""
        until = time.monotonic() + seconds
        while True:
            states = self.engine.states(numbers)
            ended = {number for number, state in states.items() if state.is_over}
            if len(ended) == len(numbers) or time.monotonic() > until:
                return ended
            self.wait(min(1.0, self.settings.poll_seconds))


def _outcome(job: QueuedJob) -> MdelError | None:
    try:
        raise_outcome(job.folder.spec, output=str(job.folder.output))
    except MdelError as error:
        return error
    return None
