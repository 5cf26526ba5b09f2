"""The whole line with tasks, by Dagster: reports, matrix, page and commands."""

import json
import os
import shutil
import subprocess
import sys

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.launch import run_line
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import PICO
from mdel_assets_tests.reporting.reading import Read
from mdel_assets_tests.tasks.written_tasks import CHOICE, LAST_WORD, write_tasks

NUM_RUN = 40


@pytest.fixture(scope="module")
def ended(finished, tmp_path_factory):
    """The finished line with tasks that came later: (experiment, home, outcomes, its YAML)."""
    folder = tmp_path_factory.mktemp("with-tasks")
    shutil.copytree(finished[1].root, folder / "home", symlinks=True)
    write_tasks(folder / "tasks")
    content = finished[0].model_dump(mode="json", exclude_defaults=True)
    # Relative to the YAML.
    tasks = {"tasks": [CHOICE, LAST_WORD], "tasks_folder": "tasks", "task_documents": NUM_RUN}
    content["evaluation"] = PICO["evaluation"] | tasks
    path = folder / "pico.yaml"
    path.write_text(yaml.safe_dump(content))
    experiment, home = load_experiment(str(path)), MdelHome(folder / "home")
    with dg.DagsterInstance.ephemeral() as instance:
        outcomes = list(run_line(experiment, home, instance=instance))
        event = instance.get_latest_materialization_event(dg.AssetKey("task_matrix"))
        of_seed = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("task_report"), asset_partitions=["seed"]), limit=1
        )
    shown = (
        event.asset_materialization.metadata,
        of_seed.records[0].asset_materialization.metadata,
    )
    return experiment, home, outcomes, path, shown


@pytest.fixture
def mdel(ended, monkeypatch):
    """Return a function that runs a command on it."""
    monkeypatch.setenv("MDEL_HOME", str(ended[1].root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(ended[3]))
    return lambda *words: CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.slow
def test_a_run_makes_the_reports_the_matrix_and_the_page_and_nothing_else(ended):
    experiment, home, outcomes, _, _ = ended
    made = {(o.kind, o.state) for o in outcomes if o.state != "up to date"}
    assert made == {
        ("task_report", "made"),
        ("task_matrix", "made"),
        ("experiment_report", "made"),
    }
    lineage = home.lineage(experiment)
    assert lineage.keys("task_report") == lineage.present_models()
    with dg.DagsterInstance.ephemeral() as instance:
        again = list(run_line(experiment, home, instance=instance))
    assert {o.state for o in again} == {"up to date"}


@pytest.mark.slow
def test_pages_show_figures_chart_and_correlation(ended):
    matrix, seed = ended[4]
    rows = seed["figures"].value.records
    assert {(row.data["task"], row.data["metric"]) for row in rows} == {
        (CHOICE, "acc"),
        (CHOICE, "acc_norm"),
        (LAST_WORD, "acc"),
        (LAST_WORD, "perplexity"),
    }
    assert {row.data["num_items"] for row in rows} == {NUM_RUN}
    assert matrix["chart"].value.startswith("![tasks and bits per byte](data:image/png;base64,")
    assert "| expert-github |" in matrix["table"].value
    assert "`own_choice`" in matrix["findings"].value


@pytest.mark.slow
def test_the_page_has_a_section(ended):
    experiment, home, *_ = ended
    text = (home.lineage(experiment).folder("experiment_report") / "report.html").read_text("utf-8")
    read = Read(text)
    assert read.misnested == []
    section = text.partition('<section id="tasks">')[2].partition("</section>")[0]
    assert '<li><a href="#tasks">Tasks</a></li>' in text
    assert "own_<wbr>choice acc ↑" in section
    assert section.count("<tr>") == 2 + len(home.lineage(experiment).present_models())
    assert 'aria-label="Figures of 2 tasks over bits per byte"' in section


@pytest.mark.slow
def test_commands_show_tasks(mdel, ended):
    lineage = ended[1].lineage(ended[0])
    content = json.loads(mdel("tasks", "--json").stdout)
    assert {row["model"] for row in content["figures"]} == set(lineage.present_models())
    assert [each["task"] for each in content["correlations"]] == [CHOICE, LAST_WORD]
    lines = mdel("tasks").stdout.split("\n")
    assert lines[0].split() == [
        *("model", "bits", "per", "byte"),
        *(CHOICE, "acc", "↑", LAST_WORD, "acc", "↑"),
    ]
    assert lines[1].startswith("seed ")
    assert mdel("check").exit_code == 0
    plan = mdel("plan")
    assert plan.exit_code == 0, plan.output
    assert "task_report" in plan.output


@pytest.mark.slow
def test_the_definitions_have_the_assets_only_where_tasks_are_named(ended, finished):
    def assets(experiment):
        definitions = build_definitions(experiment, ended[1])
        return {spec.key.path[-1] for spec in definitions.resolve_all_asset_specs()}

    assert assets(ended[0]) - assets(finished[0]) == {"task_report", "task_matrix"}


@pytest.mark.slow
def test_without_tasks_the_command_says_what_to_name(finished, monkeypatch, tmp_path):
    path = tmp_path / "none.yaml"
    content = finished[0].model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("MDEL_HOME", str(finished[1].root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))
    done = CliRunner().invoke(main, ["tasks"])
    assert done.exit_code == 1
    assert "names no tasks" in done.stderr
    assert "tasks: [lambada_openai]" in done.stderr


@pytest.mark.slow
def test_loading_the_definitions_with_tasks_leaves_the_harness_alone(ended):
    code = (
        "import sys\n"
        "from mdel_assets.definitions import defs\n"
        "names = [spec.key.path[-1] for spec in defs().resolve_all_asset_specs()]\n"
        "print('task_report' in names, [m for m in ('lm_eval', 'torch') if m in sys.modules])\n"
    )
    places = {"MDEL_HOME": str(ended[1].root), "MDEL_EXPERIMENT": str(ended[3])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True []"
