"""What goes to Weights & Biases, read back from its own files."""

import json
import time

import pytest

from mdel_assets.tracking import Tracker, log_model, tracking_mode
from mdel_assets.training.steps import run_name
from mdel_assets_tests.wandb_files import history, read_records


def tracker_in(folder, *, project="mdel", mode="offline"):
    return Tracker(project=project, entity=None, group="pico", folder=folder, mode=mode)


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}, "offline"),
    ],
)
def test_the_mode_follows_the_key_unless_it_is_chosen(environment, mode, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert tracking_mode(environment) == mode


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_offline_run_holds_its_group_tags_settings_and_figures(tmp_path):
    with tracker_in(tmp_path).run(
        "expert-arxiv", run_id="abc123", job_type="training", tags=["arxiv"], config={"rate": 0.5}
    ) as run:
        run.log({"loss": 1.25})
    records = read_records(tmp_path)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.project, run.run_group) == ("abc123", "mdel", "pico")
    assert (run.job_type, list(run.tags), run.display_name) == (
        "training",
        ["arxiv"],
        "expert-arxiv",
    )
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings["rate"] == 0.5
    (logged,) = history(records)
    assert logged["loss"] == 1.25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_is_told_of_by_place_and_fingerprint_and_not_copied(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(3_000_000))
    with tracker_in(tmp_path).run("expert-arxiv", run_id="abc", job_type="training") as run:
        log_model(
            run, "expert-arxiv", folder=model, fingerprint="f00d", inputs={"seed_model": "5eed"}
        )
    requests = [r.request.log_artifact for r in read_records(tmp_path) if r.HasField("request")]
    told = [r.artifact for r in read_records(tmp_path) if r.HasField("artifact")]
    (artifact,) = [r.artifact for r in requests if r.artifact.name] or told
    assert (artifact.name, artifact.type) == ("expert-arxiv", "model")
    assert json.loads(artifact.metadata) == {
        "fingerprint": "f00d",
        "inputs": {"seed_model": "5eed"},
    }
    (entry,) = artifact.manifest.contents
    assert entry.ref == (model.resolve() / "model.safetensors").as_uri()
    sizes = [path.stat().st_size for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert sum(sizes) < 500_000


def test_without_a_project_or_when_disabled_nothing_is_written(tmp_path):
    for tracker in (tracker_in(tmp_path, project=None), tracker_in(tmp_path, mode="disabled")):
        with tracker.run("a", run_id="a", job_type="training") as run:
            assert run is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_server_that_cannot_be_reached_costs_seconds_and_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    started = time.monotonic()
    with tracker_in(tmp_path, mode="online").run("a", run_id="a", job_type="training") as run:
        assert run is None
    assert time.monotonic() - started < 60
    assert "W&B could not track 'a'" in caplog.text
    assert "0" * 40 not in caplog.text


@pytest.mark.in_use
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "key", "name"),
    [
        ("seed_model", "", "seed"),
        ("expert_model", "pubmed_central", "expert-pubmed-central"),
        ("dense_one_baseline", "", "dense-one-baseline"),
        ("expert_model_replicate", "pubmed_central@2", "expert-replicate-pubmed-central-2"),
        ("dense_baseline_replicate", "3", "dense-baseline-replicate-3"),
    ],
)
def test_the_name_of_a_model_is_one_that_weights_and_biases_takes(lineage, kind, key, name):
    import wandb

    assert run_name(lineage.artifact(kind, key)) == name
    assert wandb.Artifact(name, type="model").name == name
