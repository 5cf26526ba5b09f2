"""Tasks at the door: names, the folder of own tasks, their data."""

import importlib.metadata

import pytest

from mdel_assets.errors import ExperimentError
from mdel_assets.tasks.task_checks import mistakes_of_tasks, notes_on_tasks
from mdel_assets_tests.conftest import PICO, pico_experiment
from mdel_assets_tests.tasks.written_tasks import CHOICE, LAST_WORD, write_tasks


@pytest.fixture
def experiment_with(tmp_path):
    """Return a function that gives an experiment with tasks, of a folder of two."""
    folder = write_tasks(tmp_path / "tasks")

    def experiment(*tasks, **settings):
        evaluation = PICO["evaluation"] | {"tasks": tasks, "tasks_folder": str(folder)} | settings
        return pico_experiment(tmp_path, evaluation=evaluation)

    experiment.folder = folder
    return experiment


def test_own_tasks_their_tags_and_those_of_the_harness_are_known(experiment_with):
    experiment = experiment_with(CHOICE, "own", "lambada_openai", "mmlu")
    assert list(mistakes_of_tasks(experiment)) == []
    (note,) = notes_on_tasks(experiment)
    assert note == "evaluation.tasks: the datasets of own, lambada_openai, mmlu were not checked"
    assert notes_on_tasks(experiment_with(CHOICE, LAST_WORD)) == []


@pytest.mark.slow
def test_an_unknown_task_is_told_with_near_names(experiment_with):
    own, other = mistakes_of_tasks(experiment_with("own_choise", "lambada_opnai"))
    assert own.startswith("evaluation.tasks: Unknown task 'own_choise'. Did you mean 'own_choice'")
    assert "lambada_openai" in other.split("Known")[0]


def test_a_missing_folder_and_broken_yaml_are_told(experiment_with, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    (told,) = mistakes_of_tasks(experiment_with(CHOICE, tasks_folder=nowhere))
    assert told.startswith(f"evaluation.tasks_folder: there is no folder '{nowhere}'.")
    path = experiment_with.folder / "choice.yaml"
    path.write_text("task: [")
    (told,) = mistakes_of_tasks(experiment_with(CHOICE))
    assert told.startswith(f"evaluation.tasks_folder: {path} cannot be read: ")


def test_missing_data_is_told_with_task_file_and_remedy(experiment_with):
    path = experiment_with.folder / "data" / "choice.jsonl"
    path.unlink()
    (told,) = mistakes_of_tasks(experiment_with(CHOICE, LAST_WORD))
    assert told == (
        f"evaluation.tasks: the dataset of the task 'own_choice', {path}, cannot be had: there is "
        f"no such file. Put it there, or correct `dataset_kwargs` in "
        f"{experiment_with.folder / 'choice.yaml'}; relative paths start at that file's folder"
    )


def test_without_the_extra_the_remedy_is_told(experiment_with, monkeypatch):
    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (told,) = mistakes_of_tasks(experiment_with(CHOICE))
    assert "--editable '.[tasks]'" in told


def test_a_task_twice_is_refused(experiment_with):
    with pytest.raises(ExperimentError, match=r"evaluation\.tasks: 'own_choice' occurs twice"):
        experiment_with(CHOICE, CHOICE)
