"""Prices of tasks: items are counted, requests are as long as they are, and the rest says why."""

import csv
import json
import math
import shutil

import pyarrow as pa
import pytest
import yaml

from mdel_assets.errors import TaskError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all
from mdel_assets.tasks.own_tasks import own_tasks
from mdel_assets.tasks.prices import of_results
from mdel_assets.tasks.task_sizes import _compiled, task_sizes
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import PICO, pico_experiment
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


def items(folder, name):
    text = (folder / "data" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def size_of(folder, name=CHOICE, *, cache=None, **settings):
    (found,) = task_sizes(name, own_tasks(folder), Evaluation(**settings), cache=cache)
    return found


def with_task(folder, name, **changes):
    """Return the folder with one more task: the choice with other settings."""
    content = yaml.safe_load((folder / "choice.yaml").read_text()) | {"task": name} | changes
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_items_and_their_bytes_are_counted_by_hand(tmp_path):
    folder = write_tasks(tmp_path)
    choice, last = size_of(folder), size_of(folder, LAST_WORD)
    # The question, a blank, and one of four answers.
    lengths = [
        len(item["question"]) + 1 + sum(map(len, item["choices"])) / 4
        for item in items(folder, "choice")
    ]
    assert (choice.num_items, choice.num_passes) == (NUM_ITEMS, 4)
    assert choice.bytes_per_pass == pytest.approx(sum(lengths) / NUM_ITEMS)
    # All words but one, and that one, without the blank between.
    lengths = [len(item["text"]) - 1 for item in items(folder, "last_word")]
    assert (last.num_items, last.num_passes) == (NUM_ITEMS, 1)
    assert last.bytes_per_pass == pytest.approx(sum(lengths) / NUM_ITEMS)


def test_fewer_items_and_solved_examples_change_the_size(tmp_path):
    folder = write_tasks(tmp_path)
    plain = size_of(folder)
    changed = size_of(folder, task_documents=50, num_fewshot=2)
    assert changed.num_items == 50
    assert changed.bytes_per_pass == pytest.approx(3 * plain.bytes_per_pass + 2 * 3)


def test_a_task_of_no_solved_examples_keeps_that_as_the_harness_does(tmp_path):
    folder = with_task(write_tasks(tmp_path), "never", num_fewshot=0)
    assert size_of(folder, "never", num_fewshot=2) == size_of(folder)
    some = with_task(folder, "some", num_fewshot=1)
    assert size_of(some, "some", num_fewshot=2) == size_of(folder, num_fewshot=2)


def test_answers_of_one_letter_are_read_off_one_pass(tmp_path):
    folder = with_task(write_tasks(tmp_path), "letters", doc_to_choice=["A", "B", "C", "D"])
    assert size_of(folder, "letters").num_passes == 1


def test_what_a_model_writes_is_counted_at_most(tmp_path):
    writing = {"output_type": "generate_until", "generation_kwargs": {"max_gen_toks": 20}}
    folder = with_task(write_tasks(tmp_path), "writes", **writing)
    size = size_of(folder, "writes")
    assert (size.num_written, size.num_passes) == (20, 1)
    longest = [len(item["question"]) for item in items(folder, "choice")]
    assert size.bytes_per_pass == pytest.approx(sum(longest) / NUM_ITEMS)


def test_a_group_and_a_tag_stand_for_their_tasks(tmp_path):
    folder = write_tasks(tmp_path)
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": [CHOICE, "own"]}))
    sizes = task_sizes("both", own_tasks(folder), Evaluation())
    assert sizes == [size_of(folder), size_of(folder, LAST_WORD)]


def test_a_dataset_of_the_hub_is_counted_in_the_cache_of_datasets(tmp_path):
    rows = [{"question": "abc", "choices": ["de", "fghi"], "answer": 0}] * 7
    folder = with_task(
        write_tasks(tmp_path / "tasks"), "far", dataset_path="owner/name", dataset_kwargs=None
    )
    cache = tmp_path / "cache"
    with pytest.raises(TaskError, match=r"dataset of task 'far' \(owner/name\) is not here yet"):
        size_of(folder, "far", cache=cache)
    # As `datasets` lays it out: by configuration, version and digest.
    place = cache / "owner___name" / "default" / "0.0.0" / "0123"
    place.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(place / "name-test.arrow"), table.schema) as stream:
        stream.write_table(table)
    size = size_of(folder, "far", cache=cache)
    assert (size.num_items, size.num_passes, size.bytes_per_pass) == (7, 2, 3 + 1 + 3)


@pytest.mark.parametrize(
    ("name", "config", "files", "count"),
    [
        ("TIGER-Lab/MMLU-Pro", None, {"mmlu-pro-test": 3, "mmlu-pro-validation": 5}, 3),
        ("someone/HTMLPages", "main", {"html_pages-test": 3}, 3),
        ("plain", "main", {"plain-test-00000-of-00002": 3, "plain-test-00001-of-00002": 4}, 7),
        ("plain", "main", {"plain-test": 3, "plain-test_hard": 5, "plain-test-hard": 9}, 3),
    ],
)
def test_names_in_the_cache_are_those_that_datasets_writes(tmp_path, name, config, files, count):
    from datasets.naming import camelcase_to_snakecase

    changes = {"dataset_path": name, "dataset_name": config, "dataset_kwargs": None}
    folder = with_task(write_tasks(tmp_path / "tasks"), "far", **changes)
    *namespace, last = name.split("/")
    place = tmp_path / "cache" / "___".join([*namespace, camelcase_to_snakecase(last)])
    place = place / (config or "the_only_one") / "0.0.0" / "0123"
    place.mkdir(parents=True)
    for file, num_rows in files.items():
        rows = [{"question": "abc", "choices": ["de", "fghi"], "answer": 0}] * num_rows
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(str(place / f"{file}.arrow"), table.schema) as stream:
            stream.write_table(table)
    assert size_of(folder, "far", cache=tmp_path / "cache").num_items == count


@pytest.mark.parametrize("place", ["test/0.jsonl", "of-test-01.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("way", ["data_dir", "dataset_path"])
def test_files_of_a_folder_are_told_apart_by_the_words_of_their_names(tmp_path, place, way):
    folder = write_tasks(tmp_path)
    lines = (folder / "data" / "choice.jsonl").read_text().splitlines(keepends=True)
    named = {place: 3, "train.jsonl": 5, "contest.jsonl": 7, "latest.md": 1, "test.md": 1}
    for name, num_lines in named.items():
        file = folder / "parts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines[:num_lines]))
    changes = {"dataset_path": "./parts", "dataset_kwargs": None}
    if way == "data_dir":
        changes = {"dataset_kwargs": {"data_dir": "parts"}}
    assert size_of(with_task(folder, "parted", **changes), "parted").num_items == 3
    (folder / "parts" / place).unlink()
    with pytest.raises(TaskError, match="which of its files are split 'test' is not known"):
        size_of(folder, "parted")


def test_long_fields_of_a_csv_are_counted(tmp_path):
    folder = with_task(
        write_tasks(tmp_path),
        "pages",
        dataset_path="csv",
        dataset_kwargs={"data_files": {"test": "data/pages.csv"}},
        output_type="loglikelihood_rolling",
        doc_to_target="{{page}}",
    )
    with (folder / "data" / "pages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["page"], ["a" * 200_000], ["b" * 100_000]])
    before = csv.field_size_limit(131_072)
    try:
        size = size_of(folder, "pages", num_fewshot=2)
    finally:
        csv.field_size_limit(before)
    # Without solved examples, which the harness leaves out here.
    assert (size.num_items, size.bytes_per_pass, size.is_rolling) == (2, 150_000, True)


def test_a_template_is_compiled_once(tmp_path):
    folder = write_tasks(tmp_path)
    _compiled.cache_clear()
    size_of(folder)
    assert _compiled.cache_info()[:2] == (NUM_ITEMS - 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process_docs": "!function code.clean"}, "code makes the items of task 'odd'"),
        ({"doc_to_text": "{{title}}"}, "does not fit its dataset"),
        ({"doc_to_text": "{{answer}}"}, "its choices stand in the question"),
        ({"test_split": None}, "names neither test_split nor validation_split"),
        ({"output_type": "other"}, "output_type 'other' is not one that is counted"),
        ({"dataset_kwargs": {"data_files": {"test": "none.jsonl"}}}, "cannot be counted"),
        ({"dataset_kwargs": {"data_files": {"test": "hf://a/b.jsonl"}}}, "hf://a/b.jsonl of task"),
        ({"dataset_kwargs": {"data_files": {"dev": "none.jsonl"}}}, "split 'test' is not known"),
        ({"doc_to_text": "{{1 // 0}}"}, "'odd' cannot be counted beforehand .ZeroDivisionError"),
        ({"doc_to_text": "{{(10.0 ** 400)}}"}, "OverflowError"),
        ({"doc_to_choice": "{{'one two'}}"}, "SyntaxError"),
        ({"metric_list": ["acc"]}, "AttributeError: 'str' object has no attribute 'get'"),
    ],
)
def test_what_cannot_be_counted_says_why(tmp_path, changes, message):
    folder = with_task(write_tasks(tmp_path), "odd", **changes)
    with pytest.raises(TaskError, match=message):
        size_of(folder, "odd")


def test_a_task_of_the_harness_without_its_dataset_says_that_it_is_not_here(tmp_path):
    with pytest.raises(TaskError, match=r"EleutherAI/lambada_openai, default\) is not here yet"):
        task_sizes("lambada_openai", {}, Evaluation(), cache=tmp_path)
    with pytest.raises(TaskError, match="where 'no_such_task' is defined is known only once"):
        task_sizes("no_such_task", {}, Evaluation(), cache=tmp_path)


def test_a_long_text_is_priced_by_all_its_windows(lineage_with):
    folder = lineage_with.folder
    pages = {"dataset_kwargs": {"data_files": {"test": "data/pages.jsonl"}}}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{page}}"}
    with_task(folder, "pages", **pages, **rolling)
    with_task(folder, "asked", **pages, doc_to_text="{{page}}", output_type="generate_until")
    line = json.dumps({"page": "court appeal " * 8_000}) + "\n"
    (folder / "data" / "pages.jsonl").write_text(line * 3)
    sizes = Sizes(lineage_with("pages"))
    positions = sizes.model.config.max_position_embeddings
    num_windows = math.ceil(13 * 8_000 * sizes.tokens_per_byte / positions)
    assert num_windows > 50
    price = of_results(sizes, "seed")
    assert price.num_tokens == 3 * num_windows * positions
    assert price.operations == sizes.model.forward(price.num_tokens, length=positions)
    # A question is cut instead: what else the model reads are 256 tokens that it writes.
    assert of_results(Sizes(lineage_with("asked")), "seed").num_tokens == 3 * (positions + 256)


def test_what_cannot_be_priced_is_tried_once(lineage_with):
    sizes = Sizes(lineage_with("odd"))
    with_task(lineage_with.folder, "odd", doc_to_text="{{1 // 0}}")
    with pytest.raises(TaskError, match="ZeroDivisionError") as first:
        of_results(sizes, "seed")
    # Mended meanwhile, which a plan does not look for.
    with_task(lineage_with.folder, "odd")
    for again in (sizes, sizes.of(sizes.lineage)):
        with pytest.raises(TaskError) as second:
            of_results(again, "seed")
        assert second.value is first.value


def test_tokens_and_disk_are_those_of_a_report_that_was_made(lineage_with):
    from mdel_assets.training.model_files import load_tokenizer

    lineage = lineage_with(CHOICE, LAST_WORD)
    sizes = Sizes(lineage)
    price = of_results(sizes, "seed")
    tokenizer = load_tokenizer(lineage.folder("seed_model"))
    asked = [
        f"{item['question']} {choice}"
        for item in items(lineage_with.folder, "choice")
        for choice in item["choices"]
    ]
    asked += [item["text"] for item in items(lineage_with.folder, "last_word")]
    num_tokens = sum(len(tokenizer(text)["input_ids"]) for text in asked)
    assert price.num_tokens == pytest.approx(num_tokens, rel=0.1)
    assert price.operations == pytest.approx(sizes.model.forward(num_tokens, length=24), rel=0.12)
    made = make_all(lineage, "task_report", ["seed"])["seed"]
    artifact = lineage.artifact("task_report", "seed")
    on_disk = sum(file["size_bytes"] for file in made.files.values())
    on_disk += artifact.record_path.stat().st_size
    assert price.disk_bytes == pytest.approx(on_disk, rel=0.25)
