"""Corpora of every layout become documents of the same domains."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.shard_pass import route_documents
from mdel_assets.errors import ExperimentError, ShardError
from mdel_assets.experiment.fields import Domain, Source
from mdel_assets.line.making import make_all, make_one
from mdel_assets_tests.conftest import compress, pico_experiment

DOMAINS = [Domain(key="github", name="Github"), Domain(key="arxiv", name="ArXiv")]


def run(shard, out, *, max_reject_rate=0.0, **source):
    out.mkdir(exist_ok=True)
    settings = Source(train=(str(shard),), max_reject_rate=max_reject_rate, **source)
    return route_documents(shard, out, domains=DOMAINS, source=settings)


def texts(folder, domain):
    return pq.read_table(folder / f"{domain}.parquet").column("text").to_pylist()


def dolma(text, source, **metadata):
    return {"id": text, "text": text, "source": source, "metadata": metadata}


DOLMA = [
    dolma("free", "ArXiv", license="Creative Commons - Attribution"),
    dolma("domain", "Github", license="Public Domain"),
    dolma("closed", "Github", license="All rights reserved"),
    dolma("none", "ArXiv"),
    {"text": "no metadata", "source": "ArXiv"},
    {"text": "odd metadata", "source": "ArXiv", "metadata": [1]},
    dolma("odd licence", "ArXiv", license=5),
]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl"])
def test_dolma_documents_of_other_licences_are_left_out_and_counted(tmp_path, suffix):
    content = "".join(json.dumps(d) + "\n" for d in DOLMA).encode()
    shard = tmp_path / f"s{suffix}"
    if suffix.endswith(".zst"):
        compress(content, shard)
    else:
        shard.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    counts = run(
        shard, tmp_path / "out", layout="dolma", licenses=("creative commons*", "PUBLIC DOMAIN")
    )
    assert texts(tmp_path / "out", "arxiv") == ["free"]
    assert texts(tmp_path / "out", "github") == ["domain"]
    assert counts.filtered_licenses == {"(none)": 4, "All rights reserved": 1}
    assert (counts.num_lines, counts.num_documents, counts.num_filtered) == (7, 2, 5)


def test_without_an_allow_list_every_licence_is_taken(tmp_path):
    shard = tmp_path / "s.jsonl"
    shard.write_text("".join(json.dumps(d) + "\n" for d in DOLMA))
    assert run(shard, tmp_path / "out", layout="dolma").num_documents == len(DOLMA)


def test_columns_of_json_lines_are_read_by_dotted_paths(tmp_path):
    shard = tmp_path / "s.jsonl"
    shard.write_text('{"doc":{"body":"a"},"from":{"where":{"name":"ArXiv"}}}\n')
    run(
        shard,
        tmp_path / "out",
        layout="columns",
        text_field="doc.body",
        domain_field="from.where.name",
    )
    assert texts(tmp_path / "out", "arxiv") == ["a"]


@pytest.mark.parametrize(
    "labels", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_columns_of_parquet_are_read_by_dotted_paths(tmp_path, labels):
    table = pa.table(
        {
            "doc": pa.array([{"body": "ä"}, {"body": None}, {"body": "b"}, {"body": "c"}, None]),
            "where": pa.array(["ArXiv", "ArXiv", "Nowhere", None, "ArXiv"]).cast(labels),
            "other": [1, 2, 3, 4, 5],
        }
    )
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=2)
    counts = run(
        tmp_path / "s.parquet",
        tmp_path / "out",
        layout="columns",
        text_field="doc.body",
        domain_field="where",
        max_reject_rate=1.0,
    )
    assert texts(tmp_path / "out", "arxiv") == ["ä"]
    assert counts.rejects == {"missing_text": 2, "unknown_domain": 1, "missing_domain": 1}
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert [r["line_number"] for r in rejects] == [2, 3, 4, 5]


def test_a_parquet_file_without_the_column_is_refused_with_those_it_has(tmp_path):
    pq.write_table(pa.table({"content": ["a"], "where": [1.5]}), tmp_path / "s.parquet")
    columns = {"layout": "columns", "domain_field": "where"}
    with pytest.raises(ShardError, match=r"no column 'text'. Its columns: content, where"):
        run(tmp_path / "s.parquet", tmp_path / "out", **columns)
    with pytest.raises(ShardError, match="column 'where' holds double, expected strings"):
        run(tmp_path / "s.parquet", tmp_path / "out", text_field="content", **columns)


def test_a_truncated_parquet_file_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "where": ["ArXiv"]}), tmp_path / "s.parquet")
    content = (tmp_path / "s.parquet").read_bytes()
    (tmp_path / "s.parquet").write_bytes(content[:-9])
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        run(tmp_path / "s.parquet", tmp_path / "out", layout="columns", domain_field="where")


def write_folders(root):
    for folder in ("Github/deep", "ArXiv", ".git"):
        (root / folder).mkdir(parents=True)
    (root / "Github" / "a.txt").write_text("plain\ntext")
    (root / "Github" / "deep" / "b.py").write_text("print()")
    (root / "Github" / ".hidden").write_text("never")
    (root / ".git" / "config").write_text("never")
    (root / "ArXiv" / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text":"c"}\n{"text":"d"}\n'))
    pq.write_table(pa.table({"text": ["e", "f"]}), root / "ArXiv" / "e.parquet")
    return root


def test_a_folder_per_domain_holds_text_files_json_lines_and_parquet(tmp_path):
    root = write_folders(tmp_path / "corpus")
    counts = run(root, tmp_path / "out", layout="folders")
    assert texts(tmp_path / "out", "github") == ["plain\ntext", "print()"]
    assert texts(tmp_path / "out", "arxiv") == ["c", "d", "e", "f"]
    assert counts.num_lines == 6


def test_a_file_in_a_folder_that_is_no_text_is_rejected_under_its_name(tmp_path):
    root = write_folders(tmp_path / "corpus")
    (root / "ArXiv" / "picture.txt").write_bytes(b"\x89PNG\xff")
    counts = run(root, tmp_path / "out", layout="folders", max_reject_rate=0.5)
    assert counts.rejects == {"invalid_utf8": 1}
    (reject,) = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (reject["file"], reject["line_number"]) == ("ArXiv/picture.txt", 1)


def folders_experiment(root):
    source = {"layout": "folders", "train": [str(root)], "validation": None, "test": None}
    return pico_experiment(root, source=source | {"holdout_fraction": 0.3})


def test_a_folder_goes_through_the_data_stage_and_a_changed_file_is_noticed(tmp_path, home):
    root = tmp_path / "corpus"
    for label in ("Github", "ArXiv", "FreeLaw"):
        (root / label).mkdir(parents=True)
        for number in range(40):
            (root / label / f"{number}.txt").write_text(f"{label} document {number}")
    lineage = home.lineage(folders_experiment(root))
    make_one(lineage, "raw_pile_shard", "corpus")
    make_one(lineage, "shard_documents", "corpus")
    record = make_all(lineage, "domain_dataset", ["arxiv"])["arxiv"]
    assert record.counts["train"]["num_domain_documents"] > 10
    assert lineage.stale("raw_pile_shard", "corpus") is None
    (root / "Github" / "3.txt").write_text("another text")
    assert lineage.stale("raw_pile_shard", "corpus") is not None
    make_one(lineage, "raw_pile_shard", "corpus")
    assert lineage.stale("shard_documents", "corpus") is not None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"layout": "columns"}, "layout 'columns' needs 'domain_field'"),
        ({"layout": "folders", "domain_field": "x"}, "takes the domain from the folder's name"),
    ],
)
def test_a_layout_that_contradicts_its_fields_is_refused(tmp_path, source, message):
    with pytest.raises(ExperimentError, match=message):
        pico_experiment(tmp_path, source=source)


def test_a_refused_shard_leaves_its_rejects_where_the_message_says(tmp_path, home):
    good = json.dumps({"text": "a", "meta": {"pile_set_name": "ArXiv"}}).encode()
    compress(good + b"\n{broken\n", tmp_path / "00.jsonl.zst")
    source = {"train": [str(tmp_path / "00.jsonl.zst")], "validation": None, "test": None}
    lineage = home.lineage(pico_experiment(tmp_path, source=source))
    make_one(lineage, "raw_pile_shard", "00")
    with pytest.raises(ShardError, match=r"1 of 2 lines .* The rejected lines are in (\S+)\.") as e:
        make_one(lineage, "shard_documents", "00")
    (kept,) = home.root.rglob("rejects.parquet")
    assert str(kept) in str(e.value)
    assert pq.read_table(kept).column("line").to_pylist() == [b"{broken"]
    assert not lineage.folder("shard_documents", "00").exists()
