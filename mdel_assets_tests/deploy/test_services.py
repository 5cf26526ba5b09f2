"""docker-compose.yml at work: each service's own command, against a PostgreSQL of its own.

One story, told once: all services start, a backfill of two domains runs, and a long training, which
is cancelled and begun again; all is stopped in the middle of that.
"""

import dataclasses
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_one
from mdel_assets.training.optimize import last_whole_checkpoint
from mdel_assets_tests.conftest import pico_experiment
from mdel_assets_tests.deploy.compose_file import mounts_of, read_compose
from mdel_assets_tests.deploy.graphql_client import Webserver
from mdel_assets_tests.deploy.local_services import LocalServices
from mdel_assets_tests.deploy.postgres_cluster import create_cluster, find_programs
from mdel_assets_tests.waiting import wait_until
from mdel_assets_tests.wandb_files import read_records

DOMAINS = ("arxiv", "github")
SAVE_STEPS = 500
# Each look is a query that takes a processor of the machine's few.
_LOOK_SECONDS = 1.0
SECRETS = {
    "POSTGRES_PASSWORD": "c0ffee-planted-database-password",
    "HF_TOKEN": "hf_PlantedForTheCodeServerAlone",
    "WANDB_API_KEY": "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567",
}
PROGRAMS = find_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAMS is None,
        reason="there is no PostgreSQL (Debian's package 'postgresql'): run 'make test_services'",
    ),
]


@dataclasses.dataclass
class Story:
    """What happened while the services ran, and what is left of them."""

    services: LocalServices
    web: Webserver
    lineage: Lineage
    home: Path
    backfill: Any = None
    pages: Any = None
    cancelled: list[str] = dataclasses.field(default_factory=list)
    kept: str = ""
    long_run: str = ""
    num_runs_by_status: dict[str, int] = dataclasses.field(default_factory=dict)
    interrupted: list[str] = dataclasses.field(default_factory=list)
    dump: bytes = b""
    snapshots: list[bytes] = dataclasses.field(default_factory=list)
    left_over: list[str] = dataclasses.field(default_factory=list)
    exit_codes: dict[str, int] = dataclasses.field(default_factory=dict)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that the database's user may reach, too."""
    folder = Path(tempfile.mkdtemp(prefix="mdel-services-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def story(place: Path, corpus: Path, make_model: Any) -> Story:
    """All services, started, at work, and stopped again."""
    assert PROGRAMS is not None
    experiment = pico_experiment(
        corpus,
        seed_model={"path": str(make_model())},
        tracking={"wandb_project": "pico"},
        variants={
            "long": {
                "domain": "arxiv",
                "training": {"num_tokens": 32 * 4 * 100_000, "save_steps": SAVE_STEPS},
            }
        },
    )
    inputs = place / "inputs"
    inputs.mkdir()
    content = experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
    (inputs / "pico.yaml").write_text(yaml.safe_dump(content))
    settings = SECRETS | {
        "MDEL_EXPERIMENT": "/inputs/pico.yaml",
        "MDEL_INPUTS": str(inputs),
        "WANDB_MODE": "offline",
    }
    services = LocalServices(read_compose(settings), place, programs=PROGRAMS)
    web = Webserver(f"http://127.0.0.1:{services.ports['3000']}")
    home = MdelHome(services.volume("mdel_home"))
    lineage = home.lineage(experiment)
    for shard in experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    make_one(lineage, "seed_model")
    told = Story(services, web, lineage, home.root)
    database = services.services["postgres"]["environment"]
    create_cluster(
        services.volume("database"),
        programs=PROGRAMS,
        user=database["POSTGRES_USER"],
        password=database["POSTGRES_PASSWORD"],
        database=database["POSTGRES_DB"],
    )
    try:
        for name in services.in_order():
            services.start(name)
        _work(told)
        for name in reversed(list(services.in_order())):
            if name == "postgres":
                _ask_postgres(told)
            told.exit_codes[name] = services.stop(name)
    finally:
        told.left_over = [" ".join(process.cmdline()) for process in services.survivors()]
        services.kill_all()
    return told


def _work(told: Story) -> None:
    """Backfill two domains and leave a training running."""
    web, work = told.web, told.lineage.root / "work"
    number = web.backfill(["domain_dataset", "expert_model"], DOMAINS)

    def state() -> Any:
        return web.backfill_state(number)

    # The daemon looks at a backfill twice a minute: what it has yet to see may be done long since.
    wait_until(
        lambda: (
            [run["status"] for run in state()["runs"]] == ["SUCCESS"] * 3
            or state()["status"].startswith(("COMPLETED", "FAIL"))
        ),
        seconds=300,
        every=_LOOK_SECONDS,
        what=state,
    )
    cancelled = web.launch("variant_expert", "long")
    wait_until(
        lambda: list(work.glob("variant_expert-*/checkpoint-*/trainer_state.json")),
        seconds=120,
        every=_LOOK_SECONDS,
        what=lambda: web.messages(cancelled),
    )
    web.terminate(cancelled)
    wait_until(
        lambda: web.run_status(cancelled) == "CANCELED",
        seconds=60,
        every=_LOOK_SECONDS,
        what=lambda: web.messages(cancelled),
    )
    told.cancelled = web.messages(cancelled)
    (folder,) = work.glob("variant_expert-*")
    told.kept = str(last_whole_checkpoint(folder))
    told.long_run = web.launch("variant_expert", "long")
    wait_until(
        lambda: "resuming from" in "".join(web.messages(told.long_run)),
        seconds=120,
        every=_LOOK_SECONDS,
        what=lambda: web.messages(told.long_run),
    )
    wait_until(
        lambda: state()["status"] != "REQUESTED", seconds=120, every=_LOOK_SECONDS, what=state
    )
    told.backfill = state()
    for run in told.backfill["runs"]:
        web.messages(run["runId"])
    told.pages = web.read_pages()


def _ask_postgres(told: Story) -> None:
    """Ask the database, which outlives the others, what it holds."""
    import psycopg2

    services = told.services
    found = services.services["postgres"]["environment"]
    user, password, database = (found[f"POSTGRES_{n}"] for n in ("USER", "PASSWORD", "DB"))
    port = services.ports["5432"]
    with psycopg2.connect(
        host="127.0.0.1", port=port, user=user, password=password, dbname=database
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT status, count(*) FROM runs GROUP BY status")
        told.num_runs_by_status = dict(cursor.fetchall())
        cursor.execute("SELECT event FROM event_logs WHERE run_id = %s", (told.long_run,))
        told.interrupted = [event for (event,) in cursor.fetchall()]
        cursor.execute("SELECT snapshot_body FROM snapshots")
        told.snapshots = [zlib.decompress(bytes(body)) for (body,) in cursor.fetchall()]
    connection.close()
    address = ["--host=127.0.0.1", f"--port={port}", f"--username={user}", database]
    told.dump = subprocess.run(
        [str(PROGRAMS / "pg_dump"), *address],  # type: ignore[operator]
        env={"PATH": os.environ["PATH"], "PGPASSWORD": password},
        check=True,
        capture_output=True,
    ).stdout


def test_a_backfill_of_two_domains_succeeds_and_leaves_its_artifacts(story):
    assert story.backfill["status"] == "COMPLETED_SUCCESS", story.backfill
    # One run for both datasets, one for each expert.
    assert [run["status"] for run in story.backfill["runs"]] == ["SUCCESS"] * 3
    store = story.lineage
    for domain in DOMAINS:
        assert pq.read_table(store.folder("domain_dataset", domain) / "train.parquet").num_rows > 0
        assert (store.folder("expert_model", domain) / "model.safetensors").stat().st_size > 0
        assert story.lineage.stale("expert_model", domain) is None
    assert not store.folder("expert_model", "freelaw").exists()


def test_every_daemon_is_healthy_and_the_code_is_loaded(story):
    daemons = story.pages["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = {"BACKFILL", "QUEUED_RUN_COORDINATOR", "MONITORING", "SCHEDULER", "SENSOR"}
    assert required <= {daemon["daemonType"] for daemon in daemons if daemon["healthy"]}
    (location,) = story.pages["workspaceOrError"]["locationEntries"]
    assert (location["name"], location["loadStatus"]) == ("mdel_assets", "LOADED")


def test_postgres_holds_the_runs_and_no_file_does(story):
    assert story.num_runs_by_status["SUCCESS"] == 3
    assert b"ASSET_MATERIALIZATION" in story.dump
    assert list(story.home.rglob("*.db")) + list(story.home.rglob("*.sqlite")) == []


def test_a_run_cancelled_on_its_page_saves_a_checkpoint_from_which_the_next_goes_on(story):
    # Not one of those that are saved every so many steps: the one of the step it was stopped at.
    assert int(story.kept.rpartition("-")[2]) % SAVE_STEPS
    assert any("it was told to end (SIGINT)" in event for event in story.cancelled)
    assert any(f"resuming from {story.kept}" in event for event in story.interrupted)


def test_stopping_the_services_saves_a_running_training_and_leaves_no_process(story):
    assert story.left_over == []
    assert story.num_runs_by_status == {"SUCCESS": 3, "CANCELED": 1, "FAILURE": 1}
    assert any("it was told to end (SIGTERM)" in event for event in story.interrupted)
    (folder,) = (story.lineage.root / "work").glob("variant_expert-*")
    assert last_whole_checkpoint(folder) is not None
    assert story.exit_codes["postgres"] == 0
    assert story.exit_codes["code-server"] == 0


def test_services_write_to_their_volumes_and_temporary_folders_alone(story):
    """Their other folders are read-only under Docker; here it is seen that nothing came there."""
    for name, service in story.services.services.items():
        allowed = [mount.target for mount in mounts_of(service)]
        allowed += [line.split(":")[0] for line in service.get("tmpfs", [])]
        new = story.services.files(name) - story.services.shipped[name]
        assert [path for path in new if not path.startswith(tuple(f"{p}/" for p in allowed))] == []


def test_no_secret_shows_in_events_logs_records_or_pages(story):
    services = story.services
    volumes = {
        str(path.relative_to(services.root)): path.read_bytes()
        for volume in ("mdel_home", "dagster_home")
        for path in services.volume(volume).rglob("*")
        if path.is_file()
    }
    tracked = [
        record.SerializeToString()
        for run in story.home.glob("wandb/offline-run-*")
        for record in read_records(story.home, name=run.name)
    ]
    places = volumes | {
        "the database": story.dump,
        "snapshots": b"".join(story.snapshots),
        "pages": "".join(story.web.said).encode(),
        "what was tracked": b"".join(tracked),
        **{f"log of {name}": services.log(name).read_bytes() for name in services.services},
    }
    assert any(name.endswith(".err") for name in places)
    assert any(name.endswith("record.json") for name in places)
    assert min(len(story.dump), len(places["snapshots"]), len(places["pages"])) > 10_000
    assert len(tracked) > 10
    found = [
        (variable, name)
        for variable, secret in SECRETS.items()
        for name, content in places.items()
        if secret.encode() in content
    ]
    assert found == []
