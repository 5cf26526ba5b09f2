"""Task reports: the harness's own figures, nothing run twice, and what cannot be run refused."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from mdel_assets.errors import TaskError
from mdel_assets.home import MdelHome
from mdel_assets.line.kind import Input
from mdel_assets.line.making import make, make_all, make_one
from mdel_assets.reporting.tasks import tasks_of
from mdel_assets.tasks.results import RESULTS_NAME, read_results
from mdel_assets.tasks.steps import read_comparison
from mdel_assets_tests.conftest import PICO, forge, pico_experiment
from mdel_assets_tests.tasks.written_tasks import CHOICE, LAST_WORD, NUM_ITEMS, write_tasks


@pytest.fixture
def lineage_with(branched, corpus, tmp_path):
    """Return a function that gives the line up to its seed model, with tasks in the experiment."""
    home = tmp_path / "home"
    shutil.copytree(branched[1].root, home, symlinks=True)
    folder = write_tasks(tmp_path / "tasks")

    def lineage(*tasks, **settings):
        evaluation = PICO["evaluation"] | {"tasks": tasks, "tasks_folder": str(folder)} | settings
        return MdelHome(home).lineage(pico_experiment(corpus, evaluation=evaluation))

    lineage.folder = folder
    return lineage


def results_of(lineage, model="seed"):
    return read_results(lineage.artifact("task_report", model).folder)


def num_run(lineage, model="seed"):
    artifact = lineage.artifact("task_report", model)
    return artifact.all_details(artifact.require())["num_tasks_run_now"]


@pytest.mark.slow
def test_figures_and_errors_are_those_of_the_harness_command(lineage_with, tmp_path):
    lineage = lineage_with(CHOICE, LAST_WORD)
    record = make_one(lineage, "task_report", "seed")
    model = lineage.model("seed").folder
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--seed", "0"),
        *("--model_args", f"pretrained={model},dtype=float32"),
        *("--tasks", f"{CHOICE},{LAST_WORD}", "--include_path", str(lineage_with.folder)),
        *("--output_path", str(tmp_path / "theirs.json")),
    ]
    done = subprocess.run(command, cwd=lineage_with.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.glob("theirs*.json")
    theirs = json.loads(path.read_text())["results"]
    ours = results_of(lineage)
    compared = 0
    for name, result in ours.items():
        for figure in result.figures:
            row = theirs[name]
            value, error = (row[f"{figure.metric}{of},{figure.answers}"] for of in ("", "_stderr"))
            # Counts are the same; sums of log-probabilities differ with the size of batches.
            is_count = figure.metric.startswith("acc")
            assert figure.value == (value if is_count else pytest.approx(value, rel=1e-5))
            assert figure.error == (error if is_count else pytest.approx(error, rel=1e-5))
            assert is_count or figure.error > 0
            assert figure.num_items == NUM_ITEMS
            compared += 1
    assert compared == 4
    # By hand: the standard error of a mean of zeros and ones.
    acc = ours[CHOICE].figures[0]
    by_hand = (acc.value * (1 - acc.value) / (NUM_ITEMS - 1)) ** 0.5
    assert acc.error == pytest.approx(by_hand)
    assert 0 < acc.value < 1
    assert record.counts == {"num_tasks": 2, "num_items": 2 * NUM_ITEMS}


@pytest.mark.slow
def test_a_second_run_loads_no_model(lineage_with, tmp_path):
    lineage = lineage_with(CHOICE, task_documents=5)
    record = make_one(lineage, "task_report", "seed")
    code = (
        "import pathlib, sys\n"
        "from mdel_assets.experiment.loading import load_experiment\n"
        "from mdel_assets.home import MdelHome\n"
        "from mdel_assets.line.making import make_one\n"
        "experiment = load_experiment(sys.argv[1])\n"
        "lineage = MdelHome(pathlib.Path(sys.argv[2])).lineage(experiment)\n"
        "print(make_one(lineage, 'task_report', 'seed').fingerprint)\n"
        "print([name for name in ('torch', 'lm_eval', 'datasets') if name in sys.modules])\n"
    )
    settings = tmp_path / "experiment.yaml"
    content = lineage.experiment.model_dump(mode="json", exclude_defaults=True)
    settings.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-c", code, str(settings), str(lineage.root.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [record.fingerprint, "[]"]


def test_another_task_is_run_alone(lineage_with):
    first = lineage_with(CHOICE, task_documents=5)
    make_one(first, "task_report", "seed")
    assert num_run(first) == 1
    artifact = first.artifact("task_report", "seed")
    path = artifact.folder / RESULTS_NAME
    content = json.loads(path.read_text())
    # A figure that no run gives: where it is read again, it was not run again.
    content[CHOICE]["figures"][0]["value"] = 0.123
    path.unlink()
    path.write_text(json.dumps(content))
    forge(artifact)
    both = lineage_with(CHOICE, LAST_WORD, task_documents=5)
    make_one(both, "task_report", "seed")
    assert num_run(both) == 1
    assert results_of(both)[CHOICE].figures[0].value == 0.123
    assert list(results_of(both)) == [CHOICE, LAST_WORD]
    # One that leaves the list leaves the report, and nothing is run.
    make_one(lineage_with(LAST_WORD, task_documents=5), "task_report", "seed")
    assert list(results_of(both)) == [LAST_WORD]
    assert num_run(both) == 0


@pytest.mark.parametrize("changed", ["data", "definition", "include", "settings", "seed"])
def test_what_a_task_is_made_of_makes_it_stale(lineage_with, changed):
    lineage, folder = lineage_with(CHOICE, LAST_WORD, task_documents=5), lineage_with.folder
    before = lineage.identity("task_report", "seed")
    if changed == "data":
        path = folder / "data" / "last_word.jsonl"
        path.write_text(path.read_text().replace("court", "judge", 1))
    elif changed == "definition":
        path = folder / "last_word.yaml"
        path.write_text(path.read_text().replace("version: 2.0", "version: 3.0"))
    elif changed == "include":
        path = folder / "common"
        path.write_text(path.read_text() + "  - {metric: perplexity}\n")
    elif changed == "settings":
        lineage = lineage_with(CHOICE, LAST_WORD, task_documents=6)
    else:
        lineage = lineage_with(CHOICE, LAST_WORD, task_documents=5, seed=1)
    after = lineage.identity("task_report", "seed")
    assert after.fingerprint != before.fingerprint
    of_task = set(before.config["tasks"]) - {CHOICE}
    if changed in ("data", "definition", "include"):
        assert after.config["tasks"][CHOICE] == before.config["tasks"][CHOICE]
        assert all(after.config["tasks"][n] != before.config["tasks"][n] for n in of_task)


def test_the_place_of_the_folder_is_no_part_of_a_task(lineage_with, tmp_path):
    before = lineage_with(CHOICE).identity("task_report", "seed")
    moved = shutil.copytree(lineage_with.folder, tmp_path / "elsewhere")
    assert lineage_with(CHOICE, tasks_folder=str(moved)).identity("task_report", "seed") == before


def test_a_dataset_that_cannot_be_had_stops_no_other_task(lineage_with):
    lineage, folder = lineage_with(LAST_WORD, CHOICE, task_documents=5), lineage_with.folder
    data = folder / "data" / "last_word.jsonl"
    whole = data.read_text()
    data.write_text('{"text": "court')
    made = make(lineage, "task_report", ["seed"])
    (failure,) = made.failures.values()
    assert isinstance(failure, TaskError)
    told = str(failure)
    assert told.startswith(f"The dataset of the task '{LAST_WORD}', {data}, cannot be had: ")
    assert told.endswith(
        f"Correct the file, or `dataset_kwargs` in {folder / 'last_word.yaml'}; relative paths "
        f"start at that file's folder."
    )
    assert "\n" not in told
    assert list(results_of(lineage)) == [CHOICE]
    assert list(read_comparison(lineage).figures["seed"]) == [(CHOICE, "acc")]
    # It is made anew, and only what was lacking is run.
    assert lineage.current("task_report", "seed") is None
    data.write_text(whole)
    make_one(lineage, "task_report", "seed")
    assert num_run(lineage) == 1
    assert list(results_of(lineage)) == [LAST_WORD, CHOICE]


def test_a_dataset_of_the_hub_without_a_network_is_refused_with_the_remedy(
    lineage_with, monkeypatch
):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    path = lineage_with.folder / "remote.yaml"
    path.write_text((lineage_with.folder / "choice.yaml").read_text())
    content = path.read_text().replace("own_choice", "remote")
    content = content.replace("dataset_path: json", "dataset_path: nobody/nothing")
    path.write_text("\n".join(line for line in content.split("\n") if "dataset_kwargs" not in line))
    made = make(lineage_with("remote", task_documents=5), "task_report", ["seed"])
    told = str(made.failures["seed"])
    assert told.startswith("The dataset of the task 'remote', nobody/nothing, cannot be had: ")
    assert "Run once with a network" in told
    assert "take the task out of evaluation.tasks" in told


def test_an_unknown_task_stops_no_other(lineage_with):
    lineage_with.folder.joinpath("group.yaml").write_text("group: all_own\ntask: [own_choice]\n")
    made = make(lineage_with("own_choise", CHOICE, task_documents=5), "task_report", ["seed"])
    assert str(made.failures["seed"]).startswith(
        "evaluation.tasks: Unknown task 'own_choise'. Did you mean 'own_choice'"
    )
    assert list(results_of(lineage_with())) == [CHOICE]


def test_groups_and_tags_show_their_tasks(lineage_with):
    lineage_with.folder.joinpath("group.yaml").write_text(
        "group: all_own\ntask: [own_choice, own_last_word]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    lineage = lineage_with("own", task_documents=5)
    make_one(lineage, "task_report", "seed")
    (figure,) = results_of(lineage)["own"].main
    assert (figure.task, figure.metric) == (LAST_WORD, "acc")


def test_a_model_that_cannot_be_loaded_stops_no_other_model(lineage_with):
    lineage = lineage_with(CHOICE, task_documents=5)
    made = make(lineage, "task_report", ["expert-github", "seed"])
    assert list(made.failures) == ["expert-github"]
    assert list(made.records) == ["seed"]


def test_without_tasks_there_are_no_reports(lineage):
    assert not {"task_report", "task_matrix"} & set(lineage.kinds())


def test_few_shot_examples_are_drawn_with_the_seed(lineage_with):
    path = lineage_with.folder / "choice.yaml"
    path.write_text(path.read_text() + "fewshot_split: test\n")
    lineage = lineage_with(CHOICE, task_documents=20, num_fewshot=1)
    make_all(lineage, "task_report", ["seed"])
    first = results_of(lineage)[CHOICE]
    assert first.num_fewshot == {CHOICE: 1}
    lineage.artifact("task_report", "seed").remove()
    make_all(lineage, "task_report", ["seed"])
    assert results_of(lineage)[CHOICE] == first


def test_results_of_tasks_that_are_no_longer_named_make_no_section(lineage_with):
    before = lineage_with(CHOICE, task_documents=5)
    records = {Input("task_matrix"): make_one(before, "task_report", "seed")}
    assert tasks_of(before, records).rows[0].model == "seed"
    after = lineage_with("cannot_be_had", task_documents=5)
    assert tasks_of(after, records) is None
    with pytest.raises(TaskError, match="No model has results of cannot_be_had yet"):
        read_comparison(after)


def test_a_task_that_runs_out_of_memory_stops_no_other(lineage_with):
    path = lineage_with.folder / "last_word.yaml"
    path.write_text(path.read_text() + "process_results: !function utils.score\n")
    code = "def score(doc, results):\n    return {'acc': len(bytearray(2**62))}\n"
    (lineage_with.folder / "utils.py").write_text(code)
    lineage = lineage_with(LAST_WORD, CHOICE, task_documents=5)
    told = str(make(lineage, "task_report", ["seed"]).failures["seed"])
    assert told.startswith(f"The task '{LAST_WORD}' ran out of memory on ")
    assert list(results_of(lineage)) == [CHOICE]
