"""Jobs from submission to end, on an engine whose answers a test decides."""

import json

import pytest

from mdel_assets.engines.job_folder import JobFolder, Note, refuse_foreign_note, token
from mdel_assets.engines.jobs import EngineDownError, JobState
from mdel_assets.engines.queued import Queue, QueuedJob
from mdel_assets.engines.settings import QueueSettings
from mdel_assets.errors import StorageError, TrainingInterruptedError, WorkerError, transient
from mdel_assets_tests.engines.test_job_folder import SPEC


class Script:
    """An engine that tells one state after the other, each job's worker having left its outcome.

    A step is a state, or a pair of one and of what the worker wrote.
    """

    name = "slurm"
    cancel_command = "scancel"

    def __init__(self, *steps, answers=True):
        self.steps = list(steps)
        self.answers = answers
        self.works = []
        self.cancelled = []
        self.found = None

    def submit(self, submission, works):
        self.works += works
        if self.answers:
            for index, work in enumerate(works):
                work.folder.answered.write_text(f"{token(submission, index)} node1")
        return [f"{len(self.works)}_{index}" for index in range(len(works))]

    def find(self, submission, index):
        return self.found

    def states(self, jobs):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        state, outcome = step if isinstance(step, tuple) else (step, None)
        if outcome:
            path = self.works[-1].folder.spec.with_suffix(".outcome.json")
            path.write_text(json.dumps(outcome))
        return dict.fromkeys(jobs, state)

    def cancel(self, jobs):
        self.cancelled += jobs


class Nobody:
    def open(self, key, folder):
        return {}

    def pass_on(self, key):
        pass

    def close(self, key):
        pass


RUNNING = JobState("running", "RUNNING", "node1")
WELL = (JobState("done", "COMPLETED"), {"class": None, "error": None})
STOPPED = (
    JobState("failed", "FAILED"),
    {"class": "TrainingInterruptedError", "error": "Training stopped at step 7."},
)
KILLED = JobState("lost", "NODE_FAIL", "node1")


@pytest.fixture
def job(tmp_path):
    return QueuedJob("arxiv", "pico/expert_model/arxiv", SPEC, JobFolder(tmp_path / "job"))


def run(engine, job, *, wait=lambda seconds: None, **settings):
    settings = QueueSettings(**{"storage_seconds": 1e-9, "cancel_seconds": 1e-9} | settings)
    Queue(engine, settings, listener=Nobody(), wait=wait).run([job])
    return job.error


def test_a_training_that_was_stopped_or_killed_goes_on_in_another_job(job):
    engine = Script(RUNNING, STOPPED, KILLED, JobState("interrupted", "TIMEOUT"), RUNNING, WELL)
    assert run(engine, job) is None
    assert len(engine.works) == 4
    assert job.folder.note() is None


def test_what_begins_anew_when_its_time_is_over_is_tried_a_few_times_only(job):
    job.resumes = False
    over = [JobState("interrupted", "TIMEOUT")] * 3
    run(Script(*over), job, max_retries=2)
    assert "was killed (TIMEOUT on node1), as were 2 before it" in str(job.error)


def test_it_is_not_queued_again_for_ever(job):
    error = run(Script(STOPPED, STOPPED, STOPPED), job, max_requeues=2)
    assert isinstance(error, TrainingInterruptedError)
    assert "requeued 2 times (slurm.max_requeues): Training stopped at step 7." in str(error)


def test_a_job_that_is_killed_each_time_fails(job):
    error = run(Script(KILLED, KILLED), job, max_retries=1)
    assert "was killed (NODE_FAIL on node1), as were 1 before it (slurm.max_retries)" in str(error)


def test_a_job_that_the_engine_gave_up_waiting_with_is_queued_again(job):
    gone = JobState("unstarted", "failed to start within 900 seconds")
    assert run(Script(gone, gone, gone, WELL), job, max_retries=0, max_requeues=0) is None


def test_an_engine_that_does_not_answer_is_waited_for(job):
    down = EngineDownError("squeue failed: no controller")
    assert run(Script(down, RUNNING, down, WELL), job) is None


class Silent(Script):
    """An engine that does not answer to some submissions; it may have accepted the job."""

    def __init__(self, *steps, silent, accepts):
        super().__init__(*steps)
        self.silent, self.accepts = silent, accepts
        self.num_asked = 0

    def submit(self, submission, works):
        self.num_asked += 1
        if self.num_asked not in self.silent:
            return super().submit(submission, works)
        if self.accepts:
            (self.found,) = super().submit(submission, works)
        raise transient(EngineDownError("sbatch failed: no controller"))


@pytest.mark.parametrize("accepts", [False, True])
def test_a_job_to_be_requeued_waits_for_an_engine_that_does_not_answer(job, accepts):
    engine = Silent(RUNNING, STOPPED, RUNNING, WELL, silent={2, 3}, accepts=accepts)
    assert run(engine, job) is None
    assert engine.num_asked == (2 if accepts else 4)
    assert len(engine.works) == 2


def test_a_run_whose_jobs_cannot_be_submitted_fails_and_keeps_their_notes(job):
    engine = Silent(silent={1}, accepts=False)
    with pytest.raises(EngineDownError, match="no controller"):
        run(engine, job)
    assert job.folder.note().is_cancelled


def test_a_worker_that_failed_by_its_own_fault_is_not_tried_again(job):
    outcome = {"class": "TrainingError", "error": "layer 7 does not exist"}
    error = run(Script((JobState("failed", "FAILED"), outcome)), job)
    assert str(error) == "layer 7 does not exist"


def test_a_worker_that_failed_by_our_fault_is_told_by_its_class_and_its_output(job):
    outcome = {"class": "KeyError", "error": "'tokens'"}
    error = run(Script((JobState("failed", "FAILED"), outcome)), job)
    assert isinstance(error, WorkerError)
    assert f"KeyError: 'tokens'; {job.folder.output} says more" in str(error)


def test_a_job_that_says_nothing_in_the_folder_does_not_share_it(job):
    engine = Script(RUNNING, RUNNING, answers=False)
    error = run(engine, job)
    assert isinstance(error, StorageError)
    assert f"do not share {job.folder.path} (RUNNING)" in str(error)
    assert engine.cancelled == ["1_0"]


def test_a_run_that_is_told_to_end_cancels_its_jobs_and_keeps_a_note_of_one_that_goes_on(job):
    def interrupt(seconds):
        raise KeyboardInterrupt

    engine = Script(RUNNING, RUNNING)
    with pytest.raises(KeyboardInterrupt):
        run(engine, job, wait=interrupt)
    assert engine.cancelled == ["1_0"]
    note = job.folder.note()
    assert (note.job, note.is_cancelled) == ("1_0", True)
    # The next run waits for its end before it trains.
    engine = Script(RUNNING, JobState("cancelled", "CANCELLED"), WELL)
    assert run(engine, job) is None
    assert len(engine.works) == 1


def test_a_job_whose_number_was_not_noted_in_time_is_found_and_gone_on_with(job):
    job.folder.prepare(SPEC, Note("slurm", "0123", 0))
    job.folder.answered.write_text("0123-0 node1")
    engine = Script(RUNNING, RUNNING, JobState("done", "COMPLETED"))
    engine.found = "5"
    path = job.folder.spec.with_suffix(".outcome.json")
    path.write_text(json.dumps({"class": None, "error": None}))
    assert run(engine, job) is None
    assert engine.works == []


def test_a_job_that_makes_something_else_is_cancelled_first(job, tmp_path):
    job.folder.prepare(SPEC.model_copy(update={"max_seconds": 1.0}), Note("slurm", "0123", 0, "5"))
    engine = Script(RUNNING, JobState("cancelled", "CANCELLED"), WELL)
    assert run(engine, job) is None
    assert engine.cancelled == ["5"]
    assert len(engine.works) == 1


def test_a_job_that_makes_some_of_the_same_in_another_share_is_cancelled_first(job, tmp_path):
    """As where fewer models are left to score, and their packs are others."""
    both, other = (JobFolder(tmp_path / name) for name in ("both", "other"))
    both.prepare(SPEC.model_copy(update={"keys": ("github", "arxiv")}), Note("slurm", "1", 0, "5"))
    other.prepare(SPEC.model_copy(update={"keys": ("github",)}), Note("slurm", "1", 1, "6"))
    kind = {"kind": "token_scores"}
    JobFolder(tmp_path / "kind").prepare(SPEC.model_copy(update=kind), Note("slurm", "2", 0, "7"))
    engine = Script(RUNNING, JobState("cancelled", "CANCELLED"), WELL)
    assert run(engine, job) is None
    assert engine.cancelled == ["5"]
    assert len(engine.works) == 1
    assert both.note() is None
    assert other.note() is not None


def test_nothing_is_made_beside_a_cancelled_job_that_does_not_end(job):
    earlier = SPEC.model_copy(update={"max_seconds": 1.0})
    job.folder.prepare(earlier, Note("slurm", "0123", 0, "5"))
    engine = Script(*[RUNNING] * 4)
    with pytest.raises(WorkerError, match=r"Job 5 .* has not ended .* \(`scancel 5`\)"):
        run(engine, job)
    assert engine.works == []
    assert job.folder.has_spec(earlier)
    assert job.folder.note() == Note("slurm", "0123", 0, "5", is_cancelled=True)


def test_another_engines_job_is_not_trained_beside(job):
    job.folder.prepare(SPEC, Note("ray", "0123", 0, "5"))
    with pytest.raises(WorkerError, match=r"Job 5 of compute.engine ray may still work here"):
        refuse_foreign_note(job.folder, engine="local")
