"""``mdel perplexity``: any model on any dataset."""

import json
import math

import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.scoring.log_probabilities import token_log_probabilities
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets_tests.conftest import make_document, write_split

TEXTS = [make_document("ArXiv", n)["text"] for n in range(12)]
TEXTS.append(TEXTS[0])


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MDEL_HOME", str(tmp_path / "home"))

    def invoke(*arguments):
        command = ["perplexity", "--model", str(model), "--max-length", "32", *arguments]
        return CliRunner().invoke(main, command)

    return invoke


def write_splits(folder, splits):
    """Write a dataset whose card names its splits, as ours do."""
    folder.mkdir()
    for split in splits:
        write_split(folder / f"{split}.parquet", TEXTS[:2], domain="arxiv")
    files = [{"split": split, "path": f"{split}.parquet"} for split in splits]
    configs = [{"config_name": "default", "data_files": files}]
    (folder / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return folder


def write_rows(folder, rows):
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.in_use
def test_more_tokens_than_the_model_reads_are_refused_with_the_option_to_give(run, tmp_path):
    folder = write_rows(tmp_path / "data", [{"text": "a"}])
    result = run("--dataset", str(folder), "--max-length", "65")
    assert result.exit_code == 1
    assert "--max-length is 65, but '" in result.output
    assert "' reads 64 tokens at most: give --max-length 64." in result.output
    assert run("--dataset", str(folder), "--max-length", "64").exit_code == 0


def test_the_row_is_the_sum_over_all_documents(run, model, tmp_path):
    """A text that occurs twice counts twice; a row without text is left out, and said so."""
    folder = write_rows(tmp_path / "data", [{"text": t} for t in [*TEXTS, None]])
    result = run("--dataset", str(folder))
    assert result.exit_code == 0, result.output
    assert "1 documents without text were left out" in result.output
    (line,) = (tmp_path / "home" / "perplexity.jsonl").read_text().splitlines()
    row = json.loads(line)
    tokens = load_tokenizer(model)(TEXTS, add_special_tokens=False)["input_ids"]
    scores = token_log_probabilities(load_model(model), tokens, prefix=0, max_length=32)
    nll = -sum(float(score.sum(dtype="float64")) for score in scores)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert row["num_documents"] == len(TEXTS)
    assert row["num_bytes"] == num_bytes
    assert row["num_tokens"] == sum(map(len, tokens))
    assert row["nll_nats"] == pytest.approx(nll, rel=1e-6)
    assert row["bits_per_byte"] == pytest.approx(nll / num_bytes / math.log(2), rel=1e-6)
    assert run("--dataset", str(folder)).exit_code == 0
    assert len((tmp_path / "home" / "perplexity.jsonl").read_text().splitlines()) == 2


def test_dotted_fields_and_lists_of_strings_are_text(run, tmp_path):
    rows = [{"answers": {"text": ["one", "two"], "start": [1, 2]}}]
    folder = write_rows(tmp_path / "data", rows)
    assert run("--dataset", str(folder), "--text-field", "answers.text").exit_code == 0
    row = json.loads((tmp_path / "home" / "perplexity.jsonl").read_text())
    assert row["num_bytes"] == len("one\ntwo")


def test_a_sample_has_the_size_asked_for(run, tmp_path):
    folder = write_rows(tmp_path / "data", [{"text": t} for t in TEXTS[:-1]])
    assert run("--dataset", str(folder), "--num-documents", "5").exit_code == 0
    row = json.loads((tmp_path / "home" / "perplexity.jsonl").read_text())
    assert row["num_documents"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text-field", "body"], "has no field 'body'. Its fields: text, nested"),
        (["--text-field", "nested.body"], "no 'body' in the field 'nested.body'; it holds: number"),
        (["--text-field", "nested.number"], "holds int, not text"),
        (["--split", "train"], "cannot be read"),
        (["--model", "/nowhere"], "'/nowhere' is not a model: the folder does not exist"),
        (["--model", "a/b/c"], "the folder does not exist. A Hub id is OWNER/NAME"),
        (["--model", "."], "has no config.json"),
        (["--dataset", "a/b/c"], "There is no dataset folder 'a/b/c'"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(run, tmp_path, arguments, message):
    folder = write_rows(tmp_path / "data", [{"text": "a", "nested": {"number": 1}}])
    result = run("--dataset", str(folder), *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "validation_domain", "test_domain", "test_pile"], "test_domain"),
        (["train", "test", "test_domain"], "test"),
        (["train", "validation"], "validation"),
        (["train"], "train"),
    ],
)
def test_the_usual_split_is_taken_without_noise(run, tmp_path, caplog, capfd, splits, expected):
    """A dataset of ours has neither 'test' nor a split of any other usual name."""
    folder = write_splits(tmp_path / "data", splits)
    result = run("--dataset", str(folder))
    assert result.exit_code == 0, result.output
    row = json.loads((tmp_path / "home" / "perplexity.jsonl").read_text())
    assert row["split"] == expected
    assert f"scoring 2 documents of {folder}, split {expected}" in caplog.text
    assert "Generating" not in capfd.readouterr().err + result.output


@pytest.mark.in_use
def test_without_a_usual_split_those_that_are_there_are_named(run, tmp_path):
    folder = write_splits(tmp_path / "data", ["one", "two"])
    result = run("--dataset", str(folder))
    assert "has the splits one, two. Name one with --split." in result.output
