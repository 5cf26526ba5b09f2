"""`mdel new`: an experiment for a corpus that has none, which needs no edit."""

import gzip
import json
import random
import re

import dagster as dg
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.defs.launch import run_line
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.experiment.schema import SCHEMA_PATH
from mdel_assets.home import MdelHome

WORDS = ["court", "motion", "cell", "protein", "def", "return", "river", "king", "sum", "proof"]


def text(label, number):
    draw = random.Random(f"{label}{number}")
    return f"{' '.join(draw.choices(WORDS, k=20))} {label} {number}"


def records(**counts):
    """Return (label, text) pairs in a fixed random order."""
    found = [(label, text(label, n)) for label, count in counts.items() for n in range(count)]
    random.Random(0).shuffle(found)
    return found


def write_lines(path, rows, *, opened=gzip.open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Return a function that begins an experiment, checks it, and returns it with its text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MDEL_HOME", str(tmp_path / "home"))

    def run(*paths, name="mine"):
        done = CliRunner().invoke(main, ["new", name, "--from", *paths])
        assert done.exit_code == 0, done.output
        told = [line.strip() for line in done.output.splitlines() if line.startswith("  ")]
        checked = CliRunner().invoke(main, ["check", f"{name}.yaml"])
        assert checked.exit_code == 0, checked.output
        written = (tmp_path / f"{name}.yaml").read_text("utf-8")
        # What is in doubt is said at once, and in the file.
        comments = re.sub(r"\n#   ", " ", written)
        assert re.findall(r"(?m)^# - (.*)$", comments) == told
        schema = json.loads(SCHEMA_PATH.read_text("utf-8"))
        jsonschema.validate(yaml.safe_load(written), schema)
        return load_experiment(f"{name}.yaml"), written

    return run


def names(experiment):
    return [(domain.key, domain.name) for domain in experiment.domain_table]


def test_parquet_with_nested_fields(begin, tmp_path):
    rows = [
        {"id": n, "doc": {"title": "a title", "body": body}, "meta": {"topic": label, "year": 2001}}
        for n, (label, body) in enumerate(records(Law=160, Medicine=150))
    ]
    (tmp_path / "data").mkdir()
    for number in range(4):
        part = pa.Table.from_pylist(rows[number::4])
        pq.write_table(part, tmp_path / "data" / f"part-{number}.parquet", row_group_size=50)
    experiment, written = begin("data")
    source = experiment.source
    assert (source.layout, source.text_field, source.domain_field) == (
        *("columns", "doc.body", "meta.topic"),
    )
    assert source.train == ("data/*.parquet",)
    assert names(experiment) == [("law", "Law"), ("medicine", "Medicine")]
    # 27 documents are expected of a domain of 150: 0.18.
    assert source.holdout_fraction == 0.18
    assert "# 150, " in written
    assert "read 310 records (that is all of them)" in written


def test_json_lines_in_gzip_with_a_validation_file(begin, tmp_path):
    parts = [f"part-{number}" for number in range(4)]
    for name, count in (*((part, 150) for part in parts), ("val", 40)):
        rows = [{"body": t, "topic": k} for k, t in records(law=count, tax=count)]
        write_lines(tmp_path / "lines" / f"{name}.jsonl.gz", rows)
    experiment, _ = begin("lines")
    source = experiment.source
    assert (source.layout, source.text_field, source.domain_field) == ("columns", "body", "topic")
    # A glob would match the held-out file, too.
    assert source.train == tuple(f"lines/{part}.jsonl.gz" for part in parts)
    assert source.validation == "lines/val.jsonl.gz"


def test_folders_of_text(begin, tmp_path):
    for number, (label, body) in enumerate(records(Case_Law=150, tax=140)):
        path = tmp_path / "texts" / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    (tmp_path / "texts" / "tax" / "scan.pdf").write_bytes(b"%PDF-")
    experiment, written = begin("texts")
    assert (experiment.source.layout, experiment.source.train) == ("folders", ("texts",))
    assert names(experiment) == [("case_law", "Case_Law"), ("tax", "tax")]
    assert "Files of other kinds are not read: 1 .pdf." in written


def test_a_csv_whose_columns_tie(begin, tmp_path):
    rows = "".join(
        f'"{body}\nin two lines";{label};"{body[::-1]}";{"en" if n % 3 else "fr"}\n'
        for n, (label, body) in enumerate(records(law=140, tax=140))
    )
    (tmp_path / "table.csv").write_text(f"content;category;reversed;lang\n{rows}")
    experiment, written = begin("table.csv")
    source = experiment.source
    assert (source.text_field, source.domain_field) == ("content", "category")
    assert "# - text_field: `reversed` holds about as much text as `content`." in written
    assert "# - domain_field: instead of `category`, it could be `lang` (2 labels)." in written


def test_text_without_labels_is_clustered_and_runs_to_datasets(begin, tmp_path):
    write_lines(tmp_path / "plain.jsonl", [{"text": t} for _, t in records(a=300)], opened=open)
    experiment, written = begin("plain.jsonl")
    assert "# - No field or folder names a domain, so domains are found by clustering." in written
    assert experiment.clusters is not None
    assert experiment.clusters.clusters == 2
    with dg.DagsterInstance.ephemeral() as instance:
        home = MdelHome(tmp_path / "home")
        outcomes = list(run_line(experiment, home, instance=instance, until="domain_dataset"))
    assert {outcome.state for outcome in outcomes} == {"made"}, outcomes
    assert [outcome.kind for outcome in outcomes][-1] == "domain_dataset"
    splits = sorted((tmp_path / "home" / "mine" / "datasets").glob("cluster_*/*_domain.parquet"))
    held_out = [pq.read_metadata(path).num_rows for path in splits]
    # Test and validation of both clusters: a verdict needs 16 documents of each.
    assert len(held_out) == 4
    assert min(held_out) >= 16


def test_forty_labels_of_which_three_matter(begin, tmp_path):
    rare = {f"rare {n}": 2 for n in range(37)}
    found = records(**{"Law": 200, "tax-code": 180, "Köln": 150}, **rare)
    rows = [
        {"text": t, "source": "LAW" if k == "Law" and n % 5 == 0 else k}
        for n, (k, t) in enumerate(found)
    ]
    write_lines(tmp_path / "a.jsonl", [*rows, {"text": None, "source": "Law"}], opened=open)
    write_lines(tmp_path / "b.jsonl", [row for row in rows if "rare" in row["source"]], opened=open)
    experiment, written = begin("a.jsonl", "b.jsonl")
    assert names(experiment) == [("law", "Law"), ("tax_code", "tax-code"), ("koln", "Köln")]
    assert experiment.domain_table[0].aliases == ("LAW",)
    assert experiment.source.other_labels == "leave_out"
    assert "# 37 other labels are left out: rare " in written
    assert " 4 and 25 more." in written
    # A shard without a document that is wanted would be refused.
    assert experiment.source.train == ("a.jsonl",)
    # One record of 679 has no text; a hundredth is allowed.
    assert experiment.source.max_reject_rate == 0.01


def test_no_file_is_overwritten_without_force(begin, tmp_path):
    write_lines(tmp_path / "plain.jsonl", [{"text": t} for _, t in records(a=300)], opened=open)
    begin("plain.jsonl")
    (tmp_path / "mine.yaml").write_text("precious")
    words = ["new", "mine", "--from", "plain.jsonl"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "mine.yaml exists" in done.output
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert CliRunner().invoke(main, [*words, "--force"]).exit_code == 0
    assert load_experiment("mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"number": 1}\n', "No field holds text in half of the records. Fields: num"),
        ("a.txt", "One text.", "a.txt looks like plain text"),
        (
            "a.jsonl",
            '{"text": "a"}\n',
            "holds 1 documents with 1 bytes of text, too few for domains",
        ),
        ("b/a.pdf", "%PDF-", "can be read (1 .pdf)"),
        ("b/a.txt", "One text.", "is a text file in no folder"),
    ],
)
def test_what_cannot_be_an_experiment_is_refused(tmp_path, monkeypatch, name, content, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    done = CliRunner().invoke(main, ["new", "mine", "--from", name.partition("/")[0]])
    assert done.exit_code == 1
    assert told in done.output
    assert not (tmp_path / "mine.yaml").exists()
