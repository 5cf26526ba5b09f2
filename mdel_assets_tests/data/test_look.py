"""What a corpus without an experiment seems to be, by some of its records."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.look import LabelCount, look_at
from mdel_assets.data.some_records import some_records
from mdel_assets.errors import ShardError
from mdel_assets_tests.conftest import make_documents, write_shard
from mdel_assets_tests.data.own_corpora import folder_of


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_pile_is_known_by_its_fields(tmp_path):
    documents = make_documents({"Github": 30, "ArXiv": 20})
    look = look_at([write_shard(tmp_path / "00.jsonl.zst", documents)])
    assert (look.layout, look.text_field, look.doubts) == ("pile", "text", ())
    sizes = {
        label: sum(len(d["text"]) for d in documents if d["meta"]["pile_set_name"] == label)
        for label in ("Github", "ArXiv")
    }
    assert set(look.counts.labels) == {
        LabelCount("Github", (), 30, sizes["Github"]),
        LabelCount("ArXiv", (), 20, sizes["ArXiv"]),
    }
    assert look.counts.is_whole


def test_dolma_is_known_by_its_fields(tmp_path):
    rows = [
        {"id": str(n), "text": f"a text {n}", "source": f"s{n % 2}", "added": "2024-01-01"}
        for n in range(40)
    ]
    assert look_at([lines(tmp_path / "a.jsonl", rows)]).layout == "dolma"
    without = [{key: value for key, value in row.items() if key != "added"} for row in rows]
    assert look_at([lines(tmp_path / "b.jsonl", without)]).layout == "columns"


def test_roots_of_folders_are_for_training_and_validation_by_their_names(tmp_path):
    texts = {f"{role}__{d}__{n}__txt": "x" for role in ("train", "val") for d in "ab" for n in "12"}
    root = folder_of(tmp_path / "corpus", **texts)
    look = look_at([root])
    assert (look.layout, look.places.train) == ("folders", (root / "train",))
    assert (look.places.validation, look.places.test) == (root / "val", None)
    assert [(label.name, label.num_documents) for label in look.counts.labels] == [
        *(("a", 2), ("b", 2)),
    ]


def test_roots_that_are_named_one_by_one_have_the_roles_of_their_names(tmp_path):
    train, val = (folder_of(tmp_path / name, law__1__txt=name) for name in ("train", "val"))
    places = look_at([val, train]).places
    assert (places.train, places.validation) == ((train,), val)


def test_the_name_of_the_corpus_gives_no_file_a_role(tmp_path):
    for name in ("train", "other"):
        lines(tmp_path / "my-test-corpus" / f"{name}.jsonl", [{"text": name}])
    places = look_at([tmp_path / "my-test-corpus"]).places
    assert (len(places.train), places.test) == (2, None)


def test_a_domain_called_test_is_a_domain(tmp_path):
    root = folder_of(tmp_path / "corpus", law__1__txt="x", test__1__txt="x")
    look = look_at([root])
    assert [label.name for label in look.counts.labels] == ["law", "test"]
    assert look.places.train == (root,)


def test_records_in_folders_have_their_folders_as_labels(tmp_path):
    for folder, count in (("law", 3), ("tax", 2)):
        lines(tmp_path / "c" / folder / "a.jsonl", [{"body": f"words {n}"} for n in range(count)])
    look = look_at([tmp_path / "c"])
    assert (look.layout, look.text_field) == ("folders", "body")
    assert [(label.name, label.num_documents) for label in look.counts.labels] == [
        *(("law", 3), ("tax", 2)),
    ]


@pytest.mark.parametrize(
    ("field", "is_domain"),
    [
        ("topic", True),
        ("split", False),  # says what the record is for
        ("unique", False),
        ("mostly", False),  # one label but for one record
        ("length", False),  # numbers
    ],
)
def test_a_field_of_few_words_names_the_domain(tmp_path, field, is_domain):
    labels = {
        "topic": lambda n: f"t{n % 2}",
        "split": lambda n: ("train", "test")[n % 2],
        "unique": lambda n: f"u{n}",
        "mostly": lambda n: "one" if n else "other",
        "length": lambda n: n % 2,
    }
    rows = [{"text": f"some words {n}", field: labels[field](n)} for n in range(200)]
    look = look_at([lines(tmp_path / "a.jsonl", rows)])
    assert look.domain_field == (field if is_domain else None)
    assert bool(look.counts.labels) == is_domain


def test_the_share_that_was_read_scales_what_is_there(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"text": f"{n:04}"} for n in range(1000)])
    some = some_records(path, "lines", num_records=100, num_bytes=10**6)
    assert (len(some.records), some.share_read) == (100, pytest.approx(0.1))
    # Each text has four bytes.
    some = some_records(path, "lines", num_records=1000, num_bytes=200)
    assert (len(some.records), some.share_read) == (50, pytest.approx(0.05))


def test_of_parquet_rows_throughout_the_file_are_read(tmp_path):
    table = pa.table({"text": [str(n // 100) for n in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    some = some_records(tmp_path / "a.parquet", "parquet", num_records=320, num_bytes=10**6)
    assert [record["text"].label for record in some.records[::64]] == ["0", "2", "4", "6", "8"]
    assert (len(some.records), some.share_read) == (320, 0.32)


def test_a_truncated_file_is_refused(tmp_path):
    table = pa.table({"text": ["a"] * 10})
    pq.write_table(table, tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-9])
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        look_at([tmp_path / "a.parquet"])


def test_one_file_by_two_paths_is_one_shard(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"text": "word", "topic": "t"}])
    (tmp_path / "b.jsonl").symlink_to(path)
    assert look_at([path, tmp_path]).places.train == (path,)
