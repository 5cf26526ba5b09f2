"""Loading tasks without a model: only those that are named, and why one cannot be loaded or run."""

from pathlib import Path

import pytest
import torch

from mdel_assets.errors import TaskError
from mdel_assets.tasks.harness import Harness
from mdel_assets.tasks.own_tasks import own_tasks
from mdel_assets.tasks.refusals import why_not_run
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.tasks.written_tasks import CHOICE, LAST_WORD, write_tasks


@pytest.fixture
def harness_of(tmp_path):
    """Return a function that gives the harness with tasks that are named, of a folder of more."""
    folder = write_tasks(tmp_path / "tasks")

    def harness(*names):
        evaluation = PICO["evaluation"] | {"tasks": names, "tasks_folder": str(folder)}
        return Harness(
            pico_experiment(tmp_path, evaluation=evaluation).evaluation, own_tasks(folder)
        )

    harness.folder = folder
    return harness


def write_with_code(folder, name, code, function="utils.keep"):
    """Write a copy of the first task whose documents pass through Python code."""
    place = folder / name
    place.mkdir()
    (place / "utils.py").write_text(code)
    content = (folder / "choice.yaml").read_text().replace(CHOICE, name)
    content = content.replace("data/choice", "../data/choice")
    path = place / f"{name}.yaml"
    path.write_text(f"{content}process_docs: !function {function}\n")
    return path


def refusal(harness, name):
    with pytest.raises(TaskError) as caught:
        harness.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_code_of_a_task_that_is_not_named_is_not_run(harness_of, tmp_path):
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\ndef keep(docs):\n    return docs\n"
    write_with_code(harness_of.folder, "draft", code)
    write_with_code(harness_of.folder, "broken", "import no_such_package_of_anyone\n")
    harness = harness_of(CHOICE, "draft")
    harness.load(CHOICE)
    assert not ran.exists()
    harness.load("draft")
    assert ran.exists()


def test_members_of_a_group_find_their_data(harness_of):
    folder = harness_of.folder
    write_with_code(folder, "draft", "def keep(docs):\n    return docs\n")
    write_with_code(folder, "broken", "import no_such_package_of_anyone\n")
    inner = f"{{group: inner, task: [{LAST_WORD}]}}"
    (folder / "group.yaml").write_text(
        f"group: all\ntask: [draft, {{task: {CHOICE}, num_fewshot: 0}}, {inner}]\n"
    )
    harness = harness_of("all", "broken")
    harness.load("all")
    assert "'no_such_package_of_anyone'" in refusal(harness, "broken")


def test_a_missing_package_is_named_with_how_to_install_it(harness_of):
    path = write_with_code(harness_of.folder, "mine", "import no_such_package_of_anyone.part\n")
    harness = harness_of("mine", LAST_WORD)
    assert refusal(harness, "mine") == (
        "The task 'mine' cannot be loaded: No module named 'no_such_package_of_anyone'. Install "
        "the package 'no_such_package_of_anyone', for example with `pip install "
        f"no_such_package_of_anyone` (if it is a file of yours, put it into {path.parent}), or "
        "take the task out of evaluation.tasks."
    )
    harness.load(LAST_WORD)


def test_another_version_of_a_package_is_asked_for(harness_of):
    write_with_code(harness_of.folder, "mine", "from json import no_such_name\n")
    told = refusal(harness_of("mine"), "mine")
    assert "Install a version of the package 'json' that has it, or take" in told


@pytest.mark.parametrize(
    ("code", "function", "cause"),
    [
        ("def keep(docs):\n    return docs\n", "utils.lose", "has no function 'lose'"),
        ("def keep(docs):\n    raise ValueError('odd words')\n", "utils.keep", "odd words."),
        (
            "def keep(docs):\n    return docs.map(lambda doc: 1 / 0)\n",
            "utils.keep",
            "division by zero.",
        ),
        ("def keep(docs:\n", "utils.keep", "was never closed"),
    ],
)
def test_wrong_code_is_not_taken_for_a_dataset(harness_of, code, function, cause):
    path = write_with_code(harness_of.folder, "mine", code, function)
    told = refusal(harness_of("mine"), "mine")
    assert told.startswith("The task 'mine' cannot be loaded: ")
    assert cause in told
    assert told.endswith(
        f"Correct {path} or what it names, or take the task out of evaluation.tasks."
    )


def test_a_split_that_is_not_there_is_not_taken_for_a_dataset(harness_of):
    path = harness_of.folder / "choice.yaml"
    path.write_text(path.read_text().replace("test_split: test", "test_split: other"))
    told = refusal(harness_of(CHOICE), CHOICE)
    assert told.startswith(f"The task '{CHOICE}' cannot be loaded: ")
    assert "other" in told


def test_a_missing_file_is_one_of_the_dataset(harness_of):
    path = harness_of.folder / "data" / "choice.jsonl"
    path.unlink()
    told = refusal(harness_of(CHOICE), CHOICE)
    assert told.startswith(f"The dataset of the task '{CHOICE}', {path}, cannot be had: ")


def _more_than_any_machine_has(of):
    try:
        torch.empty(2**55, dtype=torch.uint8) if of == "torch" else bytearray(2**62)
    except (RuntimeError, MemoryError) as error:
        return error


@pytest.mark.parametrize("of", ["torch", "python"])
def test_lack_of_memory_is_no_fault_of_the_task(of):
    error = _more_than_any_machine_has(of)
    told = why_not_run("mine", Path("models/seed"), error)
    assert told.startswith("The task 'mine' ran out of memory on models/seed: ")
    assert "Correct the task" not in told
    other = why_not_run("mine", Path("models/seed"), ValueError("odd"))
    assert other == (
        "The task 'mine' failed on models/seed: odd. Correct the task, or take the task out of "
        "evaluation.tasks."
    )
