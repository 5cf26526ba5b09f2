"""Experts as jobs of a real Ray cluster of two nodes: the same bits, whatever befalls the jobs."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdel_assets.engines.job_folder import JobFolder
from mdel_assets.engines.jobs import EngineDownError, Work
from mdel_assets.engines.ray_jobs import RayJobs
from mdel_assets.engines.settings import RaySettings
from mdel_assets.errors import WorkerError
from mdel_assets_tests.defs.expert_jobs import QUICK, Place, are_equal
from mdel_assets_tests.defs.line_of_jobs import assert_same_records, experiment_of, run_by_jobs
from mdel_assets_tests.ray_cluster import NUM_CPUS, RayCluster
from mdel_assets_tests.waiting import wait_until

# Dagster warns of its own Pipes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*PipesMessageReader.*in preview"),
]
BOTH = ("github", "arxiv")


@pytest.fixture(scope="module")
def cluster():
    cluster = RayCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def place(seeded, long, cluster, tmp_path):
    """Each job takes a whole node."""
    settings = {"address": cluster.address, "num_cpus": NUM_CPUS}
    compute = {"engine": "ray", "ray": QUICK | settings}
    return Place.of(seeded, tmp_path / "home", long, compute)


def started_since(before, cluster):
    return {number: job for number, job in cluster.jobs().items() if number not in before}


@pytest.mark.slow
def test_a_backfill_trains_two_domains_on_two_nodes_to_the_bits_of_one(place, alone, cluster):
    before = cluster.jobs()
    run = place.train(*BOTH)
    assert not run.failure
    assert run.recorded == set(BOTH)
    jobs = started_since(before, cluster).values()
    assert [status for status, _ in jobs] == ["SUCCEEDED", "SUCCEEDED"]
    assert len({node for _, node in jobs}) == 2
    for domain in BOTH:
        assert are_equal(place.weights(domain), alone.weights(domain))
        assert any(line.startswith(f"{domain}: ") for line in run.log)


@pytest.mark.slow
def test_a_run_that_is_terminated_stops_its_jobs_and_checkpoints_are_saved(place, cluster):
    before = cluster.jobs()
    with place.start(*BOTH) as process:
        wait_until(lambda: all(map(place.has_checkpoint, BOTH)))
        process.send_signal(signal.SIGINT)
    assert {status for status, _ in started_since(before, cluster).values()} == {"STOPPED"}
    for domain in BOTH:
        outcome = place.note(domain).with_name("spec.outcome.json")
        assert "TrainingInterruptedError" in outcome.read_text()
        assert not place.note(domain).exists()
        assert place.has_checkpoint(domain)
        assert not place.has_expert(domain)


@pytest.mark.slow
def test_a_killed_worker_is_tried_again_and_a_stopped_job_fails(place, alone, cluster):
    before = cluster.jobs()
    with ThreadPoolExecutor() as pool:
        future = pool.submit(place.train, *BOTH)
        wait_until(lambda: all(map(place.has_checkpoint, BOTH)))
        place.worker("github").kill()
        (second,) = [n for n in started_since(before, cluster) if n.endswith("-1")]
        cluster.stop_job(second)
        run = future.result()
    assert f"arxiv: Job {second} (pico/expert_model/arxiv) was cancelled outside" in run.failure
    assert run.says("(pico/expert_model/github) was killed (FAILED by signal 9")
    assert run.recorded == {"github"}
    assert are_equal(place.weights("github"), alone.weights("github"))
    assert place.has_checkpoint("arxiv")


@pytest.mark.slow
def test_a_job_of_a_run_that_was_killed_is_taken_over(place, alone, cluster):
    before = cluster.jobs()
    with place.start("github") as process:
        wait_until(lambda: place.has_checkpoint("github"))
        process.kill()
    run = place.train("github")
    assert not run.failure
    assert len(started_since(before, cluster)) == 1
    assert are_equal(place.weights("github"), alone.weights("github"))


def test_without_ray_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = RayJobs(RaySettings(), command=["python"])
    with pytest.raises(WorkerError, match=r"--editable '\.\[ray\]'"):
        engine.states(["mdel-1"])


def test_a_cluster_that_is_starting_or_does_not_answer_is_waited_for(monkeypatch, tmp_path):
    busy = "Request failed with status code 500: No available agent to submit job."
    answers = [ConnectionError("refused"), RuntimeError(busy), None]
    asked, waited = [], []

    class Client:
        def __init__(self, address):
            pass

        def get_job_info(self, job):
            raise RuntimeError("Request failed with status code 404: no such job")

        def submit_job(self, **job):
            asked.append(job["submission_id"])
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return job["submission_id"]

    monkeypatch.setattr("mdel_assets.engines.ray_jobs._client_class", lambda: Client)
    engine = RayJobs(RaySettings(), command=["python"], wait=waited.append)
    work = Work("pico/seed_model", JobFolder(tmp_path), "token", {})
    (job,) = engine.submit("0123456789abcdef", [work])
    assert asked == [job] * 3
    assert len(waited) == 2
    answers.append(RuntimeError("Request failed with status code 500: out of order"))
    with pytest.raises(EngineDownError, match="out of order"):
        engine.submit("0123456789abcdef", [work])


def test_a_dashboard_that_does_not_answer_is_named():
    pytest.importorskip("ray", reason="no Ray: install the extra 'ray'")
    engine = RayJobs(RaySettings(address="http://127.0.0.1:9"), command=["python"])
    with pytest.raises(EngineDownError, match=r"dashboard at http://127.0.0.1:9 .* does not"):
        engine.states(["mdel-1"])


@pytest.mark.slow
def test_a_line_of_jobs_whose_first_of_each_kind_is_killed_makes_the_bits_of_one_machine(
    corpus, alone_line, tmp_path, cluster
):
    experiment = experiment_of(corpus)
    home = run_by_jobs(experiment, tmp_path, "ray", address=cluster.address)
    assert_same_records(home, alone_line, experiment)


@pytest.mark.slow
def test_a_line_of_jobs_on_nodes_that_share_only_the_store_makes_the_same_bits(
    corpus, alone_line, tmp_path, proxy, s3
):
    (tmp_path / "home").mkdir()
    there = tmp_path / "elsewhere"
    nodes = RayCluster(hidden_folder=tmp_path / "home")
    try:
        nodes.start()
        settings = {"address": nodes.address, "shares_folder": False}
        lines = [f"export MDEL_JOB_HOME={there}"]
        experiment = experiment_of(corpus)
        home = run_by_jobs(experiment, tmp_path, "ray", lines=lines, **settings)
    finally:
        nodes.stop()
    assert_same_records(home, alone_line, experiment)
    # What the jobs made was made in their own home.
    assert (there / "pico" / "models" / "experts" / "github").is_dir()
    assert s3.names("shared/jobs/") == []
