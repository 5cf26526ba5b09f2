"""What the digest of an own task depends on: its data, its code, and what says which is which."""

import shutil

import pytest

from mdel_assets.tasks.own_tasks import definition_digest, own_tasks

_TASK = """\
task: mine
include: ../common.yaml
dataset_path: json
dataset_kwargs: {data_files: DATA}
doc_to_text: "{{text}}"
"""
_WITH_CODE = "process_docs: !function utils.shorten\n"


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a task that includes a YAML of the folder above."""
    tasks = tmp_path / "all" / "tasks"
    for name in ("a", "b"):
        (tasks / name).mkdir(parents=True)
        (tasks / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
        (tasks / name / "utils.py").write_text(f"NAME = '{name}'\n")
    (tasks.parent / "common.yaml").write_text("test_split: test\n")
    (tasks.parent / "utils.py").write_text("WORDS = 3\n")
    return tasks


def digest(folder, data="{test: a.jsonl}", more=""):
    (folder / "mine.yaml").write_text(_TASK.replace("DATA", data) + more)
    found = definition_digest("mine", own_tasks(folder))
    assert found == definition_digest("mine", own_tasks(folder))
    return found


def test_another_address_is_another_task(folder):
    first = digest(folder, "{test: https://example.org/v1.jsonl}")
    assert first != digest(folder, "{test: https://example.org/v2.jsonl}")
    assert first == digest(folder, "{test: https://example.org/v1.jsonl}")


def test_splits_that_change_places_are_another_task(folder):
    first = digest(folder, "{train: a.jsonl, test: b.jsonl}")
    assert first != digest(folder, "{test: a.jsonl, train: b.jsonl}")
    # The order in which they are written says nothing.
    assert first == digest(folder, "{test: b.jsonl, train: a.jsonl}")


def test_a_place_counts_by_its_content_alone(folder):
    first = digest(folder, "{test: a.jsonl}")
    shutil.copy(folder / "a.jsonl", folder / "copy.jsonl")
    assert first == digest(folder, "{test: copy.jsonl}")
    (folder / "a.jsonl").write_text('{"text": "other"}\n')
    assert first != digest(folder, "{test: a.jsonl}")
    assert digest(folder, "null") != first


def test_the_files_of_a_folder_of_data_count(folder):
    (folder / "data").mkdir()
    shutil.copy(folder / "a.jsonl", folder / "data")
    more = "dataset_path: ./data\n"
    first = digest(folder, "{test: https://example.org/v1.jsonl}", more)
    shutil.copy(folder / "b.jsonl", folder / "data")
    assert first != digest(folder, "{test: https://example.org/v1.jsonl}", more)


def test_code_beside_an_included_yaml_counts(folder):
    common, code = folder.parent / "common.yaml", folder.parent / "utils.py"
    without = digest(folder)
    code.write_text("WORDS = 4\n")
    assert digest(folder) == without
    common.write_text(common.read_text() + _WITH_CODE)
    first = digest(folder)
    code.write_text("WORDS = 5\n")
    assert digest(folder) != first


def test_files_of_code_with_the_same_name_count_each(folder):
    first = digest(folder, more=_WITH_CODE)
    for name in ("a", "b"):
        path = folder / name / "utils.py"
        whole = path.read_text()
        path.write_text("NAME = 'c'\n")
        assert digest(folder, more=_WITH_CODE) != first, name
        path.write_text(whole)
    assert digest(folder, more=_WITH_CODE) == first


def test_the_place_of_code_and_data_is_no_part(folder, tmp_path):
    common = folder.parent / "common.yaml"
    common.write_text(common.read_text() + _WITH_CODE)
    first = digest(folder, more="process_results: !function a.utils.score\n")
    moved = shutil.copytree(folder.parent, tmp_path / "elsewhere") / "tasks"
    assert definition_digest("mine", own_tasks(moved)) == first
