"""What the doctor finds in a home, and what it mends; each ill made by hand."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mdel_assets.home import MdelHome
from mdel_assets.line.locks import making
from mdel_assets.line.making import make_all, make_one
from mdel_assets.maintenance.examination import (
    examine_disk,
    examine_folders,
    examine_home,
    examine_network,
    examine_records,
    examine_work,
)
from mdel_assets_tests.conftest import flip_bit, pico_experiment
from mdel_assets_tests.waiting import wait_until


@pytest.fixture
def routed(lineage, home):
    """A home with the documents of one shard."""
    key = lineage.experiment.shards()[0].key
    make_one(lineage, "raw_pile_shard", key)
    make_one(lineage, "shard_documents", key)
    return lineage, lineage.artifact("shard_documents", key)


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def half_written(parent, host, pid):
    folder = parent / f".model.tmp-{host}-{pid}-abc_1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    return folder


def test_a_home_that_was_never_set_up_is_set_up(home, lineage):
    (finding,) = examine_home(home, lineage.experiment)
    assert "has no dagster.yaml" in finding.sentence
    finding.repair()
    assert list(examine_home(home, lineage.experiment)) == []
    assert "telemetry" in (home.dagster_home("pico") / "dagster.yaml").read_text()


def test_a_database_that_is_no_database_is_found(home, lineage):
    home.initialize("pico")
    database = home.dagster_home("pico") / "runs.db"
    database.write_bytes(b"not a database, but long enough to be one" * 99)
    (finding,) = examine_home(home, lineage.experiment)
    assert "runs.db is damaged (file is not a database)" in finding.sentence


def test_what_a_dead_process_left_half_written_is_removed_and_what_is_being_written_stays(home):
    here = socket.gethostname()
    left = half_written(home.root / "pico" / "models", here, dead_process())
    being_written = half_written(home.root / "pico" / "experts", here, os.getpid())
    elsewhere = half_written(home.root / "pico" / "merged", "other-host", 1)
    (finding,) = examine_folders(home)
    assert str(left) in finding.sentence
    finding.repair()
    assert not left.exists()
    assert being_written.exists()
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    (finding,) = examine_folders(home)
    assert "of other-host, which is gone" in finding.sentence


@pytest.mark.parametrize("other", ["pico", "another"])
@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [("seed_model", "", "seed"), ("perplexity_report", "seed", "seed.record.json")],
)
def test_what_a_job_of_another_host_is_at_for_days_stays_while_the_job_holds_its_lock(
    lineage, home, other, kind, key, name
):
    experiment = lineage.experiment.model_copy(update={"name": other})
    artifact = home.lineage(experiment).artifact(kind, key)
    parent = artifact.folder.parent if artifact.owns_folder else artifact.folder
    staged = parent / f".{name}.tmp-other-host-1-abc"
    staged.mkdir(parents=True)
    os.utime(staged, (0, 0))
    with making(artifact):
        assert list(examine_folders(home)) == []
    (finding,) = examine_folders(home)
    with making(artifact):
        assert finding.repair() == f"left {staged}: somebody makes it now"
    assert staged.exists()
    assert finding.repair() == f"removed {staged}"
    assert not staged.exists()


def test_a_staging_folder_names_its_writer(lineage, home):
    with lineage.artifact("seed_model").staging():
        assert list(examine_folders(home)) == []
        (stage,) = (p for p in (lineage.root / "models").iterdir() if p.name[0] == ".")
        assert f".tmp-{socket.gethostname()}-{os.getpid()}-" in stage.name


def test_a_missing_file_and_one_of_another_size_are_found_and_made_anew(routed, home):
    lineage, documents = routed
    assert list(examine_records(home, lineage.experiment, read_files=True)) == []
    (documents.folder / "github.parquet").write_bytes(b"cut")
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert finding.sentence.startswith("shard_documents '00'")
    assert "github.parquet has 3 bytes" in finding.sentence
    finding.repair()
    assert not documents.folder.exists()
    assert list(examine_records(home, lineage.experiment, read_files=True)) == []
    make_one(lineage, "shard_documents", "00")
    assert lineage.current("shard_documents", "00")


def test_a_changed_byte_is_found(routed, home):
    lineage, documents = routed
    path = documents.folder / "github.parquet"
    flip_bit(path)
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert "github.parquet has digest" in finding.sentence


def test_a_byte_that_the_disk_changed_is_found_by_reading_all(routed, home):
    lineage, documents = routed
    path = documents.folder / "github.parquet"
    os.utime(path, ns=(0, 0))
    assert list(examine_records(home, lineage.experiment, read_files=False)) == []
    flip_bit(path)
    os.utime(path, ns=(0, 0))
    assert list(examine_records(home, lineage.experiment, read_files=False)) == []
    (finding,) = examine_records(home, lineage.experiment, read_files=True)
    assert "github.parquet has digest" in finding.sentence
    # What was once found is not forgotten.
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert "github.parquet has digest" in finding.sentence


def test_a_record_that_is_no_record_is_found_and_moved_away(routed, home):
    lineage, documents = routed
    documents.record_path.write_text('{"kind": "shard')
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert "cannot be read" in finding.sentence
    finding.repair()
    assert not documents.record_path.exists()


@pytest.mark.parametrize("place", ["reports/perplexity/seed.record.json", "reports/record.json"])
@pytest.mark.parametrize("is_known", [True, False])
def test_of_a_shared_folder_only_the_record_that_is_none_is_moved_away(
    lineage, home, place, is_known
):
    """Without datasets, the keys of what is made of them are not known."""
    if is_known:
        for key in lineage.keys("raw_pile_shard"):
            make_one(lineage, "raw_pile_shard", key)
            make_one(lineage, "shard_documents", key)
        make_all(lineage, "domain_dataset", lineage.keys("domain_dataset"))
    path = lineage.root / place
    path.parent.mkdir(parents=True)
    path.write_text("{")
    (path.parent / "of_another.parquet").touch()
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert f"its record {path} cannot be read" in finding.sentence
    finding.repair()
    assert [one.name for one in path.parent.iterdir()] == ["of_another.parquet"]


def test_what_is_moved_away_after_something_was_deleted_there_takes_a_free_name(routed, home):
    lineage, documents = routed
    for number in range(3):
        make_one(lineage, "shard_documents", documents.key)
        documents.record_path.write_text("{")
        (finding,) = examine_records(home, lineage.experiment, read_files=False)
        told = finding.repair()
        damaged = lineage.root / "work" / "damaged"
        if number == 1:
            shutil.rmtree(min(damaged.iterdir()))
    assert len(list(damaged.iterdir())) == 2
    assert any(str(path) in told for path in damaged.iterdir())


@pytest.mark.in_use
@pytest.mark.parametrize("name", ["github.parquet", "record.json"])
def test_what_is_made_anew_meanwhile_is_not_moved_away(routed, home, caplog, name):
    lineage, documents = routed
    path = documents.folder / name
    content = path.read_bytes()
    path.write_bytes(b"cut")
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    with ThreadPoolExecutor(1) as threads:
        with making(documents):
            repairing = threads.submit(finding.repair)
            wait_until(lambda: "waiting for shard_documents '00', which" in caplog.text)
            path.write_bytes(content)
        assert "meanwhile" in repairing.result()
    assert lineage.current("shard_documents", "00")


def test_a_home_below_a_hidden_folder_is_looked_at_all_the_same(lineage, tmp_path):
    home = MdelHome(tmp_path / ".cache" / "home")
    hidden = home.lineage(lineage.experiment)
    key = lineage.experiment.shards()[0].key
    make_one(hidden, "raw_pile_shard", key)
    hidden.artifact("raw_pile_shard", key).record_path.write_text("{")
    (finding,) = examine_records(home, lineage.experiment, read_files=False)
    assert "cannot be read" in finding.sentence
    # Nor does what cannot be read stop the next examination.
    assert list(examine_disk(home, lineage.experiment)) == []


def test_work_on_what_has_other_settings_now_is_found_and_removed(routed, home):
    lineage, documents = routed
    key = documents.key
    now = lineage.identity("shard_documents", key).fingerprint
    wanted = lineage.work_folder(f"shard_documents-{key}-{now}")
    old = lineage.work_folder(f"shard_documents-{key}-{'0' * 32}")
    # What is made of datasets that are not there cannot be judged, and other folders are not work.
    unknown = lineage.work_folder(f"expert_model-arxiv-{'0' * 32}")
    rejects = lineage.work_folder(f"rejects-{key}")
    # A run that was started before may still be at it.
    assert not list(examine_work(home, lineage.experiment))
    for folder in (wanted, old, unknown, rejects):
        os.utime(folder, (0, time.time() - 2 * 24 * 3600))
    (finding,) = examine_work(home, lineage.experiment)
    assert str(old) in finding.sentence
    assert "no run will go on with it" in finding.sentence
    assert finding.repair() == f"removed {old}"
    assert not old.exists()
    assert wanted.exists()
    assert unknown.exists()
    assert rejects.exists()
    assert not list(examine_work(home, lineage.experiment))


def test_a_disk_too_small_for_the_largest_artifact_is_found(routed, home):
    lineage, documents = routed
    enough = list(examine_disk(home, lineage.experiment))
    content = json.loads(documents.record_path.read_text())
    content["files"]["github.parquet"]["size_bytes"] = shutil.disk_usage(home.root).free
    documents.record_path.write_text(json.dumps(content))
    (finding,) = examine_disk(home, lineage.experiment)
    assert enough == []
    assert "are wanted to make the largest artifact anew" in finding.sentence


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401 if self.headers.get("Authorization") else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_network_is_asked_only_where_it_is_needed(corpus, home, hub, monkeypatch):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home.root))
    monkeypatch.setenv("WANDB_MODE", "offline")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    local = pico_experiment(corpus)
    remote = local.model_copy(
        update={"seed_model": local.seed_model.model_copy(update={"path": "owner/model"})}
    )
    assert list(examine_network(home, local, {"HF_ENDPOINT": nobody})) == []
    assert list(examine_network(home, remote, {"HF_ENDPOINT": hub})) == []
    (finding,) = examine_network(home, remote, {"HF_ENDPOINT": nobody})
    assert "cannot be used (ConnectError)" in finding.sentence
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (finding,) = examine_network(home, local, {"HF_ENDPOINT": hub})
    assert "it refuses the token: 401" in finding.sentence
    assert "hf_secret" not in finding.sentence


def test_the_command_mends_and_then_finds_nothing(routed, home, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from mdel_assets.cli.main import main

    lineage, _ = routed
    half_written(Path(lineage.root), socket.gethostname(), dead_process())
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    found = CliRunner().invoke(main, ["doctor", "--offline"])
    assert found.exit_code == 1
    assert "2 of 2 findings are not repaired" in found.output
    mended = CliRunner().invoke(main, ["doctor", "--offline", "--repair"])
    assert mended.exit_code == 0, mended.output
    assert "All 2 findings are repaired." in mended.output
    assert "is well" in CliRunner().invoke(main, ["doctor", "--offline"]).output
