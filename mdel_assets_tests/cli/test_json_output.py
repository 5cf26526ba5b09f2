"""``--json`` of commands: the same as their text says, for programs."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.cli.run_views import JsonLines
from mdel_assets.defs.launch import RunOutcome
from mdel_assets.errors import DiskFullError
from mdel_assets.planning import planned
from mdel_assets_tests.conftest import pico_experiment, write_shard
from mdel_assets_tests.warm_python import MDEL


@pytest.fixture
def command(finished, tmp_path, monkeypatch):
    """Return a function that runs ``mdel`` on the finished line, and returns what it printed."""
    experiment, home, _ = finished
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    return lambda *words: CliRunner().invoke(main, words)


@pytest.fixture
def gone(finished):
    """Take the report of one model away for a while."""
    experiment, home, _ = finished
    record = home.lineage(experiment).artifact("perplexity_report", "seed").record_path
    aside = record.with_suffix(".aside")
    record.rename(aside)
    yield
    aside.rename(record)


def test_status_of_a_finished_line(command):
    assert command("status").stdout.splitlines() == [
        "absent: the corpus has no training document of enron",
        "Everything is up to date.",
    ]
    assert json.loads(command("status", "--json").stdout) == {
        "experiment": "pico",
        "stale": [],
        "is_cut_off": False,
        "absent_domains": ["enron"],
    }


def test_what_libraries_print_while_the_machine_is_measured_is_no_part_of_a_plan(
    command, monkeypatch, capfd
):
    plan_run = planned.plan_run

    def noisy(*given, **options):
        os.write(1, b"[INFO] Running in WANDB offline mode\n")
        return plan_run(*given, **options)

    monkeypatch.setattr(planned, "plan_run", noisy)
    assert json.loads(command("plan", "--json").stdout)["experiment"] == "pico"
    out, err = capfd.readouterr()
    assert "WANDB" not in out
    assert "WANDB" in err


def test_status_lists_the_same_as_its_text(command, gone):
    content = json.loads(command("status", "--json").stdout)
    *lines, absent, count = command("status").stdout.splitlines()
    shown = [f"{s['kind']:20} {s['key']:28} {s['reason']}" for s in content["stale"]]
    assert shown == lines
    assert {"kind": "perplexity_report", "key": "seed", "reason": "never made"} in content["stale"]
    assert count == f"{len(content['stale'])} stale"
    assert absent.endswith(content["absent_domains"][0])


def test_check_says_what_its_text_says(command, corpus, tmp_path):
    experiment = pico_experiment(
        corpus, source={"validation": str(tmp_path / "val.jsonl.zst"), "test": "/nowhere.zst"}
    )
    lines = [{"text": "a", "meta": {"pile_set_name": "Github"}}] * 3
    write_shard(tmp_path / "val.jsonl.zst", lines)
    path = tmp_path / "other.yaml"
    content = experiment.model_dump(mode="json", exclude_unset=True, by_alias=True)
    path.write_text(yaml.safe_dump(content | {"name": "other"}))
    text, done = command("check", str(path)), command("check", str(path), "--json")
    assert (text.exit_code, done.exit_code) == (1, 1)
    assert text.stderr == done.stderr == "Error: 1 mistake to correct.\n"
    found = json.loads(done.stdout)
    heading, *lines = text.stdout.splitlines()
    assert lines == [
        *(f"  {told}" for told in [*found["notes"], *found["doubts"]]),
        *(f"- {told}" for told in found["mistakes"]),
    ]
    assert found["mistakes"] == ["source.test: there is no file '/nowhere.zst'"]
    assert heading.startswith("Experiment 'other': 4 domains, 3 recipes, 14 models")
    assert (found["num_domains"], found["num_recipes"], found["num_models"]) == (4, 3, 14)


def test_doctor_tells_findings_and_repairs(command, finished):
    _, home, _ = finished
    shutil.rmtree(home.dagster_home("pico"), ignore_errors=True)
    before = json.loads(command("doctor", "--offline", "--json").stdout)
    text = command("doctor", "--offline").stdout
    sentences = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    assert [found["sentence"] for found in before["findings"]] == sentences
    assert len(sentences) >= 1
    assert "has no dagster.yaml" in sentences[0]
    assert before["findings"][0] == {
        "sentence": sentences[0],
        "is_repairable": True,
        "repair": None,
    }
    assert before["num_left"] == len(sentences)
    done = command("doctor", "--offline", "--repair", "--json")
    repaired = json.loads(done.stdout)
    folder = home.dagster_home("pico")
    assert repaired["findings"][0]["repair"] == f"created {folder}"
    assert repaired["num_left"] == sum(f["repair"] is None for f in repaired["findings"])
    assert done.exit_code == bool(repaired["num_left"])


def test_matrix_holds_the_figures_of_its_text(command):
    content = json.loads(command("matrix", "--json").stdout, parse_constant=pytest.fail)
    text = command("matrix").stdout
    split = content["splits"][0]
    rows = [row for row in content["rows"] if row["split"] == split]
    assert len(rows) == len(content["models"]) * len(content["datasets"]) == 12 * 3
    table = text.split("Change from the seed, paired")[0].splitlines()
    for model in content["models"]:
        (line,) = [line for line in table if line.split()[:1] == [model]]
        own = {row["dataset"]: row for row in rows if row["model"] == model}
        shown = [float(word) for word in re.findall(r"([\d.]+) ±", line)]
        assert shown == [
            pytest.approx(own[name]["bits_per_byte"], abs=5e-4) for name in content["datasets"]
        ]
        (average,) = [a for a in content["averages"] if (a["model"], a["split"]) == (model, split)]
        macro, micro = map(float, line.split()[-2:])
        assert macro == pytest.approx(average["macro"]["value"], abs=5e-4)
        assert micro == pytest.approx(average["micro"], abs=5e-4)
    assert "\n".join(content["findings"]) in text
    assert "\n".join(content["ensemble_findings"]) in text


def test_a_run_is_a_line_of_json_for_each_event(command, finished):
    """With what steps print on the other stream."""
    experiment, home, _ = finished
    lineage = home.lineage(experiment)
    lineage.artifact("shard_documents", "01").record_path.unlink()
    words = [sys.executable, "-W", "ignore", *MDEL, "run", "--until", "shard_documents"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    first, *events, last = map(json.loads, done.stdout.splitlines())
    assert first == {"event": "begin", "experiment": "pico", "home": str(home.root)}
    told = [(e["event"], e["kind"], e.get("state"), e.get("keys")) for e in events]
    shards = ["00", "01", "val", "test"]
    assert told == [
        ("outcome", "raw_pile_shard", "up to date", shards),
        ("outcome", "shard_documents", "up to date", ["00", "val", "test"]),
        ("stage", "shard_documents", None, None),
        ("start", "shard_documents", None, None),
        ("outcome", "shard_documents", "made", ["01"]),
    ]
    assert last.pop("elapsed_seconds") > events[-1]["elapsed_seconds"] > 0
    assert last == {"event": "end", "state": "made", "num_made": 1, "failed": [], "num_waiting": 0}
    assert "40 lines became 40 documents" in done.stderr
    assert lineage.current("shard_documents", "01")


@pytest.mark.parametrize(
    ("outcomes", "error", "state", "failed"),
    [
        ([], None, "up to date", []),
        ([RunOutcome("seed_model", "", "made")], None, "made", []),
        (
            [RunOutcome("seed_model", "", "made"), RunOutcome("expert_model", "arxiv", "failed")],
            None,
            "failed",
            ["expert_model arxiv"],
        ),
        ([RunOutcome("seed_model", "", "made")], KeyboardInterrupt, "stopped", []),
        ([], DiskFullError, "failed", []),
    ],
)
def test_the_last_line_of_a_run_says_how_it_ended(capfd, outcomes, error, state, failed):
    ending = pytest.raises(error) if error else contextlib.nullcontext()
    with ending, JsonLines() as view:
        for outcome in outcomes:
            view.show(outcome)
        if error:
            raise error
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["event"], last["state"], last["failed"]) == ("end", state, failed)
    assert last["num_made"] == sum(outcome.state == "made" for outcome in outcomes)
