"""Tables: CSV, TSV and Parquet of every type that text and labels come in."""

import codecs
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.csv_rows import read_csv_rows
from mdel_assets.data.json_lines import Fields
from mdel_assets.errors import ShardError
from mdel_assets.experiment.fields import Domain
from mdel_assets_tests.data.own_corpora import COLUMNS, jsonl, rejects, run, texts

pytestmark = pytest.mark.in_use

TABLE = [("text", "dept"), ('says "hi", twice', "Law"), ("two\nlines", "Tax"), ("NA", "Law")]


def csv_of(delimiter, end="\n"):
    rows = [[f'"{c.replace(chr(34), chr(34) * 2)}"' for c in row] for row in TABLE]
    return "".join(delimiter.join(row) + end for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", csv_of(",")),
        ("s.CSV", codecs.BOM_UTF8 + csv_of(",", "\r\n")),
        ("semicolons.csv", csv_of(";")),
        ("s.tsv", csv_of("\t")),
        ("s.csv.gz", gzip.compress(csv_of(","), mtime=0)),
        ("utf16.csv", codecs.BOM_UTF16_LE + csv_of("\t").decode().encode("utf-16-le")),
        ("no_last_newline.csv", csv_of(",")[:-1]),
    ],
)
def test_tables_are_read_row_by_row(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    counts = run(tmp_path / name, tmp_path / "out", **COLUMNS)
    assert texts(tmp_path / "out") == ['says "hi", twice', "NA"]
    assert texts(tmp_path / "out", "tax") == ["two\nlines"]
    assert (counts.num_lines, counts.num_rejects) == (3, 0)


def test_a_broken_row_costs_no_more_than_itself(tmp_path):
    content = b"text,dept\na,Law\nb,Law,more\nc\n\xff,Law\n,Law\nd,\ne,Law\n\n"
    (tmp_path / "s.csv").write_bytes(content)
    counts = run(tmp_path / "s.csv", tmp_path / "out", max_reject_rate=1.0, **COLUMNS)
    assert texts(tmp_path / "out") == ["a", "e"]
    assert counts.rejects == {"invalid_row": 2, "invalid_utf8": 1, "missing_domain": 1}
    assert (counts.num_lines, counts.num_without_text) == (7, 1)
    kept = [(r["line_number"], r["line"]) for r in rejects(tmp_path / "out")]
    assert kept == [(2, b"b,Law,more\n"), (3, b"c\n"), (4, b"\xff"), (6, b"d")]


def test_a_quote_that_is_never_closed_takes_no_memory(tmp_path):
    content = b'text,dept\na,Law\n"b,Law\n' + b"c,Law\n" * 100
    (tmp_path / "s.csv").write_bytes(content)
    source = COLUMNS | {"max_document_bytes": 300}
    counts = run(tmp_path / "s.csv", tmp_path / "out", max_reject_rate=1.0, **source)
    # The open quote takes lines until the row is too long, and rows begin anew behind that.
    assert counts.rejects == {"too_long": 1}
    assert texts(tmp_path / "out") == ["a"] + ["c"] * (100 - (300 - len('"b,Law\n')) // 6 - 1)


def test_long_rows_are_held_a_few_at_a_time(tmp_path):
    line = b"x" * (5 << 20) + b",Law\n"
    (tmp_path / "s.csv").write_bytes(b"text,dept\n" + 12 * line)
    fields = Fields(text="text", domain="dept")
    lists = read_csv_rows(tmp_path / "s.csv", fields, label="", max_row_bytes=8 << 20)
    # The seventh row of 5 MiB reaches 32 MiB.
    assert [len(rows) for rows, _ in lists] == [7, 5]


def test_a_table_without_the_column_is_refused_with_those_it_has(tmp_path):
    (tmp_path / "s.csv").write_text("content;dept\na;Law\n")
    with pytest.raises(ShardError, match=r"no column 'text'\. Its columns: content, dept"):
        run(tmp_path / "s.csv", tmp_path / "out", **COLUMNS)


PLAIN = {
    "string_view": pa.string_view(),
    "large_string": pa.large_string(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN.keys())
def test_text_and_labels_of_every_type_of_string_are_read(tmp_path, kind):
    columns = {"text": ["ä", None, "b"], "dept": ["Law", "Law", "Tax"]}
    arrays = {name: pa.array(values).cast(kind) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), tmp_path / "s.parquet")
    counts = run(tmp_path / "s.parquet", tmp_path / "out", max_reject_rate=0.5, **COLUMNS)
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "tax")) == (["ä"], ["b"])
    assert counts.rejects == {"missing_text": 1}


def test_binary_text_that_is_no_utf8_is_rejected(tmp_path):
    table = pa.table({"text": pa.array([b"a", b"\xff"]), "dept": pa.array([b"Law", b"\xfe"])})
    pq.write_table(table, tmp_path / "s.parquet")
    counts = run(tmp_path / "s.parquet", tmp_path / "out", max_reject_rate=0.5, **COLUMNS)
    assert (texts(tmp_path / "out"), counts.rejects) == (["a"], {"invalid_utf8": 1})


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string_view())])
def test_a_list_of_strings_is_one_text(tmp_path, kind):
    lists = pa.array([["a", "b"], None, [], ["c", None]]).cast(kind)
    pq.write_table(pa.table({"text": lists, "dept": ["Law"] * 4}), tmp_path / "s.parquet")
    counts = run(tmp_path / "s.parquet", tmp_path / "out", max_reject_rate=0.5, **COLUMNS)
    assert texts(tmp_path / "out") == ["a\nb", "c"]
    assert (counts.rejects, counts.num_without_text) == ({"missing_text": 1}, 1)


@pytest.mark.parametrize(("values", "names"), [([7, 12], "7 12"), ([True, False], "true false")])
def test_integers_and_booleans_are_labels(tmp_path, values, names):
    domains = [Domain(key=f"d{i}", name=name) for i, name in enumerate(names.split())]
    pq.write_table(pa.table({"text": ["a", "b"], "dept": values}), tmp_path / "s.parquet")
    (tmp_path / "s.jsonl").write_bytes(jsonl("a", dept=values[0]) + jsonl("b", dept=values[1]))
    for name in ("s.parquet", "s.jsonl"):
        run(tmp_path / name, tmp_path / "out", domains=domains, **COLUMNS)
        assert (texts(tmp_path / "out", "d0"), texts(tmp_path / "out", "d1")) == (["a"], ["b"])


def test_a_column_whose_name_has_a_dot_is_found(tmp_path):
    pq.write_table(pa.table({"doc.text": ["a"], "dept": ["Law"]}), tmp_path / "s.parquet")
    run(tmp_path / "s.parquet", tmp_path / "out", text_field="doc.text", **COLUMNS)
    assert texts(tmp_path / "out") == ["a"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    arrays = [pa.array(["a"]), pa.array(["Law"]), pa.array(["Tax"])]
    pq.write_table(pa.table(arrays, names=["text", "dept", "dept"]), tmp_path / "s.parquet")
    with pytest.raises(ShardError, match="more than one column is called 'dept'"):
        run(tmp_path / "s.parquet", tmp_path / "out", **COLUMNS)


def test_a_flipped_byte_anywhere_in_a_parquet_file_is_told_with_its_name(tmp_path):
    rows = {"text": [f"{n} some words" * 20 for n in range(50)], "dept": ["Law"] * 50}
    pq.write_table(pa.table(rows), tmp_path / "good.parquet", compression="zstd")
    content = (tmp_path / "good.parquet").read_bytes()
    refusals = []
    for place in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 0x55
        (tmp_path / "s.parquet").write_bytes(flipped)
        try:
            run(tmp_path / "s.parquet", tmp_path / "out", max_reject_rate=0.9, **COLUMNS)
        except ShardError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(told.startswith("s.parquet") for told in refusals)
