"""Jobs that see nothing of the home they work for: everything goes through the store."""

import subprocess
import sys

import pytest

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.engines.job_script import job_script
from mdel_assets.engines.jobs import JobState
from mdel_assets.engines.queued import Queue, QueuedJob
from mdel_assets.engines.settings import QueueSettings
from mdel_assets.engines.worker_spec import WorkerSpec
from mdel_assets.errors import TrainingError, WorkerError
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.engines.test_queued import Nobody


class Bash:
    """An engine that runs each job's script by bash, in a home of its own, to its end."""

    name = "slurm"

    def __init__(self, home):
        self.home, self.scripts, self.codes = home, [], {}

    def submit(self, submission, works):
        for work in works:
            script = job_script(
                [work],
                command=[sys.executable, "-m", "mdel_assets.worker"],
                before=[f"export MDEL_JOB_HOME={self.home}"],
                shares_folder=False,
            )
            self.scripts.append(script)
            self.codes[work.name] = subprocess.run(["bash", "-c", script], check=False).returncode
        return [work.name for work in works]

    def find(self, submission, index):
        return None

    def states(self, jobs):
        return {j: JobState("failed" if self.codes[j] else "done", "", "node1") for j in jobs}

    def cancel(self, jobs):
        pass


def spec_of(lineage, kind, *keys, **changes):
    content = {
        "experiment": lineage.experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "home": str(lineage.root.parent),
        "store": lineage.remote.address if lineage.remote else None,
        "kind": kind,
        "keys": keys,
        "tracking_folder": "/nowhere",
        "tracking_mode": "disabled",
    }
    return WorkerSpec(**(content | changes))


def run(engine, lineage, *specs):
    jobs = [
        QueuedJob(
            spec.kind, f"pico/{spec.kind}", spec, JobFolder(lineage.root / "work" / spec.kind)
        )
        for spec in specs
    ]
    settings = QueueSettings(shares_folder=False, max_retries=0)
    Queue(engine, settings, listener=Nobody(), wait=lambda seconds: None).run(jobs)
    return jobs


@pytest.mark.slow
def test_a_job_fetches_what_its_step_is_made_of_and_pushes_what_it_made(
    corpus, tmp_path, proxy, s3
):
    lineage = MdelHome(tmp_path / "home").lineage(pico_experiment(corpus))
    for shard in lineage.experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    engine = Bash(tmp_path / "elsewhere")
    made, failed = run(
        engine,
        lineage,
        spec_of(lineage, "domain_dataset", "github"),
        # Its worker is the only process, where the specification says two.
        spec_of(lineage, "seed_model", "", num_processes=2),
    )
    assert made.error is None, made.folder.output.read_text()
    assert isinstance(failed.error, TrainingError)
    assert "github" in made.folder.output.read_text()

    # Nothing came by way of the home; now it comes from the store.
    assert not lineage.folder("domain_dataset", "github").exists()
    lineage.remote.look_again()
    record = lineage.current("domain_dataset", "github")
    assert record
    assert make_one(lineage, "domain_dataset", "github") == record
    there = MdelHome(tmp_path / "elsewhere").lineage(lineage.experiment)
    # Of the shards it had what it needed, and no raw text.
    assert there.folder("shard_documents", "00").exists()
    assert not there.folder("raw_pile_shard", "00").exists()
    for name in record.files:
        ours = lineage.folder("domain_dataset", "github") / name
        assert ours.read_bytes() == (there.folder("domain_dataset", "github") / name).read_bytes()
    # Neither the script, nor what a job leaves behind, holds a credential.
    for script in engine.scripts:
        assert "secret-of-the-tests" not in script
    assert s3.names("shared/jobs/") == []
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or b"secret-of-the-tests" not in path.read_bytes()


def test_jobs_without_a_shared_folder_and_without_a_store_are_refused(corpus, tmp_path):
    lineage = MdelHome(tmp_path / "home").lineage(pico_experiment(corpus))
    with pytest.raises(WorkerError, match="MDEL_STORE is not set"):
        run(Bash(tmp_path), lineage, spec_of(lineage, "seed_model", ""))
    with pytest.raises(WorkerError, match=r"compute\.kinds\.token_scores\.parts"):
        parts = {"store": "s3://bucket", "part": (0, 2)}
        run(Bash(tmp_path), lineage, spec_of(lineage, "token_scores", "seed", **parts))
