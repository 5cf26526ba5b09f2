"""Experts as jobs of a real SLURM: the same bits, whatever befalls the jobs."""

import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import forge, pico_experiment
from mdel_assets_tests.defs.expert_jobs import (
    QUICK,
    Place,
    are_equal,
    one_thread,
)
from mdel_assets_tests.defs.line_of_jobs import (
    KINDS,
    TRAININGS,
    assert_same_records,
    experiment_of,
    run_by_jobs,
)
from mdel_assets_tests.slurm_cluster import SlurmCluster
from mdel_assets_tests.waiting import wait_until

# Dagster warns of its own Pipes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*PipesMessageReader.*in preview"),
]


def slurm(*, lines=(), **settings):
    given = {"python": warm_python.executable()} | settings
    environment = [*QUICK["environment"], *lines]
    return {"engine": "slurm", "slurm": QUICK | given | {"environment": environment}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def _reached(cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))


def test_a_backfill_is_an_array_and_a_domain_that_fails_does_not_stop_the_others(
    seeded, corpus, tmp_path, cluster
):
    experiment = pico_experiment(corpus)
    local = Place.of(seeded, tmp_path / "local", experiment, {})
    with one_thread():
        assert not local.train("github", "arxiv").failure
    place = Place.of(seeded, tmp_path / "home", experiment, slurm(python=sys.executable))
    dataset = place.home.lineage(experiment).artifact("domain_dataset", "freelaw")
    (dataset.folder / "train.parquet").write_bytes(b"no Parquet")
    forge(dataset)
    before = set(cluster.jobs())
    run = place.train("github", "freelaw")
    assert run.failure.startswith("mdel_assets.errors.WorkerError: freelaw: ")
    for domain in ("github", "arxiv"):
        assert are_equal(place.weights(domain), local.weights(domain))
        assert any(line.startswith(f"{domain}: ") for line in run.log)
    assert run.recorded == {"github", "arxiv"}
    ours = {number: job for number, job in cluster.jobs().items() if number not in before}
    assert {number.partition("_")[2] for number in ours} == {"0", "1", "2"}
    assert {name for name, _ in ours.values()} == {
        f"pico/expert_model/{domain}" for domain in ("github", "arxiv", "freelaw")
    }


def test_a_run_that_is_terminated_cancels_its_jobs_and_checkpoints_are_saved(
    seeded, long, tmp_path, cluster
):
    place = Place.of(seeded, tmp_path / "home", long, slurm())
    before = set(cluster.jobs())
    with place.start("github", "arxiv") as process:
        wait_until(lambda: place.has_checkpoint("github") and place.has_checkpoint("arxiv"))
        # As Dagster's run launcher terminates a run.
        process.send_signal(signal.SIGINT)
    states = {job[1] for number, job in cluster.jobs().items() if number not in before}
    assert states == {"CANCELLED"}
    outcome = place.note("github").with_name("spec.outcome.json")
    assert "TrainingInterruptedError" in outcome.read_text()
    assert not place.note("github").exists()
    assert place.has_checkpoint("github")
    assert not place.has_expert("github")


def test_a_run_that_is_terminated_cancels_its_jobs_of_other_kinds(
    seeded, corpus, tmp_path, cluster
):
    # The jobs wait before they begin, so that there is something to cancel.
    waiting = {"environment": ["sleep 600"]}
    kinds = {"kinds": {"token_scores": waiting | {"parts": 2}}}
    place = Place.of(seeded, tmp_path / "home", pico_experiment(corpus), slurm() | kinds)
    before = set(cluster.jobs())

    def states():
        return [job[1] for number, job in cluster.jobs().items() if number not in before]

    with place.start("seed", kind="token_scores") as process:
        wait_until(lambda: states() == ["RUNNING"] * 2)
        process.send_signal(signal.SIGINT)
    assert states() == ["CANCELLED"] * 2


def test_jobs_of_a_run_that_was_killed_end_before_their_work_is_divided_anew(
    seeded, corpus, tmp_path, cluster
):
    waiting = {"environment": ["sleep 600"], "cancel_seconds": 120}
    experiment, before = pico_experiment(corpus), set(cluster.jobs())

    def states():
        return sorted(job[1] for number, job in cluster.jobs().items() if number not in before)

    kinds = {"kinds": {"token_scores": waiting | {"parts": 2}}}
    place = Place.of(seeded, tmp_path / "home", experiment, slurm() | kinds)
    with place.start("seed", kind="token_scores") as process:
        wait_until(lambda: states() == ["RUNNING"] * 2)
        process.kill()
    (place.home.root / "compute.yaml").write_text(
        yaml.safe_dump(slurm() | {"kinds": {"token_scores": waiting}})
    )
    with place.start("seed", kind="token_scores") as process:
        wait_until(lambda: "RUNNING" in states()[-1:] and len(states()) == 3)
        assert states() == ["CANCELLED", "CANCELLED", "RUNNING"]
        process.send_signal(signal.SIGINT)
    assert states() == ["CANCELLED"] * 3


def test_jobs_of_a_run_that_was_killed_are_taken_over(seeded, long, alone, tmp_path, cluster):
    place = Place.of(seeded, tmp_path / "home", long, slurm())
    before = set(cluster.jobs())
    with place.start("github", "arxiv") as process:
        wait_until(lambda: place.has_checkpoint("github") and place.has_checkpoint("arxiv"))
        process.kill()
    run = place.train("github", "arxiv")
    assert not run.failure
    assert sum("of an earlier run still makes" in line for line in run.log) <= 2
    assert len(cluster.jobs().keys() - before) == 2
    assert run.recorded == {"github", "arxiv"}
    for domain in ("github", "arxiv"):
        assert are_equal(place.weights(domain), alone.weights(domain))


def test_a_killed_job_is_tried_again_and_a_cancelled_one_fails(
    seeded, long, alone, tmp_path, cluster
):
    place = Place.of(seeded, tmp_path / "home", long, slurm())
    before = set(cluster.jobs())
    with ThreadPoolExecutor() as pool:
        future = pool.submit(place.train, "github", "arxiv")
        wait_until(lambda: place.has_checkpoint("github") and place.has_checkpoint("arxiv"))
        place.worker("github").kill()
        cluster.run("scancel", f"{min(cluster.jobs().keys() - before).split('_')[0]}_1")
        run = future.result()
    assert "was cancelled outside of Dagster (CANCELLED" in run.failure
    assert "arxiv: Job" in run.failure
    assert any(
        "(pico/expert_model/github) was killed (FAILED by signal 9" in line for line in run.log
    )
    assert run.recorded == {"github"}
    assert are_equal(place.weights("github"), alone.weights("github"))
    assert place.has_checkpoint("arxiv")


def test_a_job_that_is_killed_each_time_says_so(seeded, long, tmp_path):
    compute = slurm(max_retries=1, lines=["echo the end is near", "kill -9 $$"])
    run = Place.of(seeded, tmp_path / "home", long, compute).train("github")
    assert "was killed (FAILED by signal 9 on" in run.failure
    assert (
        "as were 1 before it (slurm.max_retries). End of its output: the end is near" in run.failure
    )


def test_a_time_limit_is_answered_by_a_checkpoint_and_another_job(
    seeded, corpus, tmp_path, cluster
):
    experiment = pico_experiment(corpus)
    local = Place.of(seeded, tmp_path / "local", experiment, {})
    with one_thread():
        assert not local.train("github").failure
    # The limit is in minutes. The first job is late, so that its fifteen seconds are over when it
    # begins to train; another has enough of them, or takes at least one step further.
    late = f"[ -e {tmp_path}/late ] || {{ touch {tmp_path}/late; sleep 15; }}"
    compute = slurm(time_limit_minutes=1, margin_seconds=45, lines=[late])
    place = Place.of(seeded, tmp_path / "home", experiment, compute)
    before = set(cluster.jobs())
    run = place.train("github")
    assert not run.failure
    assert run.says("is requeued: Training stopped at step")
    # The workers' own words, through Pipes.
    assert any(line.startswith("Training stopped at step 1 of 16") for line in run.log)
    assert any(line.startswith("resuming from") for line in run.log)
    states = {job[1] for number, job in cluster.jobs().items() if number not in before}
    assert states == {"COMPLETED", "FAILED"}
    assert are_equal(place.weights("github"), local.weights("github"))


def test_storage_that_is_not_shared_is_told_before_anything_is_trained(
    seeded, corpus, tmp_path, monkeypatch, tmp_path_factory
):
    place = Place.of(seeded, tmp_path / "home", pico_experiment(corpus), slurm())
    elsewhere = SlurmCluster(tmp_path_factory.mktemp("slurm"), hidden_folder=place.home.root)
    try:
        elsewhere.start()
        monkeypatch.setenv("SLURM_CONF", str(elsewhere.configuration))
        run = place.train("github")
    finally:
        elsewhere.stop()
    host = socket.gethostname()
    assert run.failure.startswith("mdel_assets.errors.StorageError")
    assert f"on {host} and Dagster on {host} do not share {place.home.root}" in run.failure
    assert "MDEL_HOME must be on storage that both mount" in run.failure


def test_what_sbatch_refuses_is_told(seeded, corpus, tmp_path):
    place = Place.of(seeded, tmp_path / "home", pico_experiment(corpus), slurm(partition="gpu"))
    run = place.train("github")
    assert "sbatch refused the job: sbatch: error: invalid partition" in run.failure
    assert "--partition=gpu" in run.failure


def test_a_line_of_jobs_whose_first_of_each_kind_is_killed_makes_the_bits_of_one_machine(
    corpus, alone_line, tmp_path, cluster
):
    """Four shards, three domains, scores in parts, a search, merges, texts."""
    before = set(cluster.jobs())
    home = run_by_jobs(experiment_of(corpus), tmp_path, "slurm")
    assert_same_records(home, alone_line, experiment_of(corpus))
    ours = [job for number, job in cluster.jobs().items() if number not in before]
    names = {name for name, _ in ours}
    assert {name.split("/")[1] for name in names} == {*KINDS, *TRAININGS}
    assert {name for name in names if "token_scores" in name} == {
        f"pico/token_scores/{number} of 4" for number in (1, 2, 3, 4)
    }
    assert {f"pico/shard_documents/{key}" for key in ("00", "01", "val", "test")} <= names


def test_a_line_of_jobs_on_a_node_that_shares_only_the_store_makes_the_same_bits(
    corpus, alone_line, tmp_path, proxy, s3, monkeypatch, tmp_path_factory
):
    (tmp_path / "home").mkdir()
    there = tmp_path / "elsewhere"
    node = SlurmCluster(tmp_path_factory.mktemp("slurm"), hidden_folder=tmp_path / "home")
    try:
        node.start()
        monkeypatch.setenv("SLURM_CONF", str(node.configuration))
        lines = [f"export MDEL_JOB_HOME={there}"]
        experiment = experiment_of(corpus)
        home = run_by_jobs(experiment, tmp_path, "slurm", lines=lines, shares_folder=False)
    finally:
        node.stop()
    assert_same_records(home, alone_line, experiment)
    # What the jobs made was made in their own home.
    assert (there / "pico" / "models" / "experts" / "github").is_dir()
    assert s3.names("shared/jobs/") == []
