"""Two runs that ask for the last slot of a pool in the same moment, in both databases."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.init import InitExecutorContext
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from mdel_assets.defs import pools
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.instance import open_instance
from mdel_assets.defs.launch import Runner
from mdel_assets.defs.pools import claim_free_slot, keep_limits_of_pools
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.deploy.postgres_cluster import as_other_user, create_cluster, find_programs
from mdel_assets_tests.slurm_cluster import free_ports
from mdel_assets_tests.waiting import wait_until

DAGSTERS_OWN = SqlEventLogStorage._claim_concurrency_slot
PROGRAMS = find_programs()


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, object]]:
    """How to reach a PostgreSQL that runs meanwhile, as `dagster.yaml` has it."""
    if PROGRAMS is None:
        pytest.skip("there is no PostgreSQL (Debian's package 'postgresql'): make test_services")
    # Its user may not enter pytest's own folder.
    place = Path(tempfile.mkdtemp(prefix="mdel-pools-"))
    place.chmod(0o755)
    data = place / "data"
    data.mkdir()
    names = {"user": "dagster", "password": "secret", "database": "dagster"}
    create_cluster(data, programs=PROGRAMS, **names)
    (port,) = free_ports(1)
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-F"]
    server = subprocess.Popen(
        as_other_user([str(PROGRAMS / "postgres"), "-D", str(data), "-p", str(port), *settings]),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        is_ready = [str(PROGRAMS / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: subprocess.run(is_ready).returncode == 0, seconds=60)
        login = {"username": names["user"], "password": names["password"]}
        yield {
            "scheme": "postgresql+psycopg2",
            **login,
            "db_name": names["database"],
            "hostname": "127.0.0.1",
            "port": port,
        }
    finally:
        server.terminate()
        server.wait(timeout=60)
        shutil.rmtree(place)


@pytest.fixture(params=["sqlite", "postgres"])
def home(request, tmp_path: Path) -> MdelHome:
    """A home whose runs are kept in either database."""
    home = MdelHome(tmp_path)
    home.initialize("pico")
    if request.param == "postgres":
        storage = {"storage": {"postgres": {"postgres_db": request.getfixturevalue("postgres")}}}
        with (home.dagster_home("pico") / "dagster.yaml").open("a") as settings:
            settings.write("\n" + yaml.safe_dump(storage))
    return home


@pytest.fixture
def own_way_of_dagster(monkeypatch):
    """Claim slots as Dagster does, until the test says otherwise; its runs are but names."""
    monkeypatch.setattr(SqlEventLogStorage, "_claim_concurrency_slot", DAGSTERS_OWN)
    monkeypatch.setattr(SqlEventLogStorage, "claim_concurrency_slot", pools._claim)
    monkeypatch.setattr(pools, "_free_where_dead", lambda *_: False)
    monkeypatch.setattr(pools, "_LOOK_SECONDS", 0.0)


def before_first_claim(then: Callable[[], None]) -> Callable[[], None]:
    """Call ``then`` just before this process first writes into a slot; return how to undo this."""
    waiting = [then]

    def listener(connection, cursor, statement, parameters, context, is_executemany):
        if statement.startswith("UPDATE concurrency_slots") and waiting:
            waiting.pop()()

    event = (sqlalchemy.engine.Engine, "before_cursor_execute", listener)
    sqlalchemy.event.listen(*event)
    return lambda: sqlalchemy.event.remove(*event)


def claim(instance: dg.DagsterInstance, pool: str, run_id: str) -> bool:
    """Ask for a slot; return whether the run has it."""
    return instance.event_log_storage.claim_concurrency_slot(pool, run_id, "step").is_claimed


def claim_at_once(first: dg.DagsterInstance, second: dg.DagsterInstance, pool: str) -> list[str]:
    """Let two runs claim a slot of ``pool``, one in the middle of the other; return who got it."""
    first.event_log_storage.set_concurrency_slots(pool, 1)
    for run_id in ("first", "second"):
        # Both saw a slot that nobody waits for.
        first.event_log_storage.add_pending_step(pool, run_id, "step", should_assign=True)
    got = []
    undo = before_first_claim(
        lambda: got.append("second") if claim(second, pool, "second") else None
    )
    try:
        if claim(first, pool, "first"):
            got.append("first")
    finally:
        undo()
    return got


def test_the_last_slot_goes_to_one_of_two_runs(home: MdelHome, own_way_of_dagster):
    keep_limits_of_pools()
    with open_instance(home, "pico") as first, open_instance(home, "pico") as second:
        assert claim_at_once(first, second, "gpu") == ["second"]

        # The one that came too late gets the slot when it is free, and the pool stays at one.
        assert not claim(first, "gpu", "first")
        second.event_log_storage.free_concurrency_slot_for_step("second", "step")
        assert claim(first, "gpu", "first")
        assert not claim(second, "gpu", "third")
        info = second.event_log_storage.get_concurrency_info("gpu")
        assert [(slot.run_id, slot.step_key) for slot in info.claimed_slots] == [("first", "step")]

        # Another pool is not concerned, and one of two slots has both.
        first.event_log_storage.set_concurrency_slots("io", 2)
        assert [claim(first, "io", run_id) for run_id in ("a", "b", "c")] == [True, True, False]


def test_dagster_gives_the_last_slot_to_both(home: MdelHome, own_way_of_dagster):
    # Once this fails, Dagster has mended it, and `defs/pools.py` can go.
    with open_instance(home, "pico") as first, open_instance(home, "pico") as second:
        assert claim_at_once(first, second, "cpu") == ["second", "first"]


def test_runs_of_both_kinds_claim_slots_so(own_way_of_dagster, corpus: Path, tmp_path: Path):
    experiment, home = pico_experiment(corpus), MdelHome(tmp_path)
    definitions = build_definitions(experiment, home)
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        settings = {"retries": {"enabled": {}}}
        context = InitExecutorContext(InMemoryJob(job), job.executor_def, settings, instance)
        assert isinstance(job.executor_def.executor_creation_fn(context), InProcessExecutor)
        assert SqlEventLogStorage._claim_concurrency_slot is claim_free_slot

        SqlEventLogStorage._claim_concurrency_slot = DAGSTERS_OWN
        Runner(definitions, instance, home.lineage(experiment))
        assert SqlEventLogStorage._claim_concurrency_slot is claim_free_slot
