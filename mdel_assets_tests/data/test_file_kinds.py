"""JSON that is no list of lines, other compressions, and files that are something else."""

import bz2
import codecs
import gzip
import json
import lzma

import pytest

from mdel_assets.errors import ShardError
from mdel_assets_tests.data.own_corpora import COLUMNS, jsonl, run, texts

pytestmark = pytest.mark.in_use


def test_one_json_array_is_read_element_by_element(tmp_path):
    odd = 'quote " backslash \\ brackets [{,}] newline \n end'
    records = [{"text": t, "dept": "Law"} for t in (odd, "two", "three")]
    records.insert(1, {"text": ["a", "b"], "dept": "Tax", "n": {"m": [1, [2]]}})
    for indent in (None, 2):
        shard = tmp_path / f"s{indent}.json"
        shard.write_text(json.dumps(records, indent=indent) + "\n")
        counts = run(shard, tmp_path / "out", **COLUMNS)
        assert texts(tmp_path / "out") == [odd, "two", "three"]
        assert texts(tmp_path / "out", "tax") == ["a\nb"]
        assert (counts.num_lines, counts.num_blank_lines) == (4, 0)


def test_an_array_gives_the_same_wherever_blocks_end(tmp_path):
    """Elements of many sizes over several blocks of 8 MiB, full of what ends strings."""
    records = [{"text": f"{n}" + '\\"[{,\n' * n, "dept": "Law"} for n in range(0, 2600, 2)]
    (tmp_path / "s.json").write_text(json.dumps(records))
    run(tmp_path / "s.json", tmp_path / "out", **COLUMNS)
    assert texts(tmp_path / "out") == [record["text"] for record in records]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"text": "a", "dept": "Law"}', "ends inside its JSON array"),
        (b'[{"text": "a", "dept": "Law"}] []', "continues after its JSON array"),
    ],
)
def test_an_array_that_is_not_whole_is_refused(tmp_path, content, told):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(ShardError, match=told):
        run(tmp_path / "s.json", tmp_path / "out", **COLUMNS)


def test_an_element_with_a_raw_newline_in_its_text_is_rejected_as_a_line_would_be(tmp_path):
    good, bad = b'{"text": "a", "dept": "Law"}', b'{"text": "b\nc", "dept": "Law"}'
    (tmp_path / "s.json").write_bytes(b"[" + good + b",\n" + bad + b"]")
    counts = run(tmp_path / "s.json", tmp_path / "out", max_reject_rate=0.5, **COLUMNS)
    assert (texts(tmp_path / "out"), counts.rejects) == (["a"], {"invalid_json": 1})


@pytest.mark.parametrize("suffix", ["bz2", "xz"])
def test_bzip2_and_xz_of_several_streams_are_read_and_must_be_whole(tmp_path, suffix):
    pack = {"bz2": bz2.compress, "xz": lzma.compress}[suffix]
    content = jsonl(*(f"{n} some words" for n in range(1000)))
    whole = pack(content[:5000]) + pack(content[5000:])
    shard = tmp_path / f"s.jsonl.{suffix}"
    shard.write_bytes(whole)
    assert run(shard, tmp_path / "out", **COLUMNS).num_documents == 1000
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 16
    for broken in (whole[:-5], whole + b"rubbish", bytes(damaged), b""):
        shard.write_bytes(broken)
        with pytest.raises(ShardError, match=f"s.jsonl.{suffix} is not a whole"):
            run(shard, tmp_path / "out", **COLUMNS)


LOOKS = {
    "a table": (b"id,text,dept\n1,a,Law\n", "give its name the suffix .csv"),
    "a table of tabs": (b"id\ttext\n1\ta\n", "give its name the suffix .tsv"),
    "an array": (b'[{"text": "a",\n"dept": "Law"}]', "one JSON array: give .* suffix .json"),
    "an object over lines": (b'{\n"text": "a",\n"dept": "Law"\n}', "JSON over several lines"),
    "UTF-16": (jsonl("a").decode().encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "UTF-16, big-endian": (jsonl("a").decode().encode("utf-16-be"), "iconv -f UTF-16BE"),
    "a PDF": (b"%PDF-1.7 \xff", "a PDF: extract the text"),
    "a ZIP": (b"PK\x03\x04\xff", "a ZIP archive"),
    "HTML": (b"<!DOCTYPE html><p>", "HTML: extract the text"),
    "gzip": (gzip.compress(jsonl("a")), "gzip compressed: give its name the suffix .gz"),
    "bzip2": (bz2.compress(jsonl("a")), "bzip2 compressed: give its name the suffix .bz2"),
    "xz": (lzma.compress(jsonl("a")), "xz compressed: give its name the suffix .xz"),
    "Parquet": (b"PAR1\x15\x04", "Parquet: give its name the suffix .parquet"),
    "prose": (b"Once upon a time\nthere was", "plain text: use layout 'folders'"),
}


@pytest.mark.parametrize(("content", "told"), LOOKS.values(), ids=LOOKS.keys())
def test_a_file_that_is_no_json_lines_is_refused_with_what_it_looks_like(tmp_path, content, told):
    (tmp_path / "s.jsonl").write_bytes(content)
    with pytest.raises(ShardError, match=f"s.jsonl looks like .*{told}") as refused:
        run(tmp_path / "s.jsonl", tmp_path / "out", **COLUMNS)
    assert "Check source.text_field" not in str(refused.value)


def test_utf16_with_its_mark_and_names_with_dots_are_read(tmp_path):
    lines = b'{"doc.text": "a", "dept": "Law"}\n{"doc": {"text": "b"}, "dept": "Law"}\n'
    (tmp_path / "s.jsonl").write_bytes(codecs.BOM_UTF16_BE + lines.decode().encode("utf-16-be"))
    run(tmp_path / "s.jsonl", tmp_path / "out", text_field="doc.text", **COLUMNS)
    assert texts(tmp_path / "out") == ["a", "b"]


def test_other_types_and_names_are_read_in_json_lines_as_in_tables(tmp_path):
    records = [
        {"doc": {"text": ["a", "b"]}, "dept": "Law"},
        {"doc.text": "c", "dept": "Law"},
        {"doc": {"text": ["a", 1]}, "dept": "Law"},
        {"doc": {"text": "d"}, "dept": 7.5},
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    source = COLUMNS | {"text_field": "doc.text"}
    counts = run(tmp_path / "s.jsonl", tmp_path / "out", max_reject_rate=0.5, **source)
    assert texts(tmp_path / "out") == ["a\nb", "c"]
    assert counts.rejects == {"text_not_a_string": 1, "domain_not_a_label": 1}
