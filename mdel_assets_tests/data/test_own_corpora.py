"""Corpora as firms have them: other kinds of file, odd names, and what is no text among them."""

import codecs
import gzip
import json
import os
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.fetch import source_signature
from mdel_assets.errors import ShardError
from mdel_assets.experiment.fields import Domain
from mdel_assets.line.making import make_one
from mdel_assets_tests.conftest import compress, pico_experiment
from mdel_assets_tests.data.own_corpora import (
    COLUMNS,
    DOMAINS,
    folder_of,
    jsonl,
    rejects,
    run,
    texts,
)

pytestmark = pytest.mark.in_use

# Folders.


def test_only_files_of_known_text_suffixes_are_documents_and_others_are_named(tmp_path, caplog):
    shard = folder_of(
        tmp_path / "s",
        Law__a__txt="one",
        Law__b__MD="two",
        Law__c__py="three = 3",
        Law__notes__pdf="%PDF-1.4 four",
        Law__page__html="<html>five</html>",
        Tax__doc__docx=b"PK\x03\x04",
        Tax__d__txt="six",
    )
    (shard / "Law" / "README").write_text("seven")
    counts = run(shard, tmp_path / "out", layout="folders")
    assert texts(tmp_path / "out") == ["one", "two", "three = 3"]
    assert texts(tmp_path / "out", "tax") == ["six"]
    found = {why: (unread.num_files, unread.names) for why, unread in counts.unread_files.items()}
    assert found == {
        ".pdf": (1, ("Law/notes.pdf",)),
        ".html": (1, ("Law/page.html",)),
        ".docx": (1, ("Tax/doc.docx",)),
        "(no suffix)": (1, ("Law/README",)),
    }
    assert (counts.num_lines, counts.num_documents) == (4, 4)
    assert "1 .pdf (Law/notes.pdf)" in caplog.text
    assert "source.text_suffixes" in caplog.text


def test_suffixes_that_the_experiment_names_are_read_as_text(tmp_path):
    shard = folder_of(tmp_path / "s", Law__a__NFO="one", Law__b__pdf="never")
    (shard / "Law" / "38464").write_text("two")
    run(shard, tmp_path / "out", layout="folders", text_suffixes=(".nfo", ""))
    assert sorted(texts(tmp_path / "out")) == ["one", "two"]


def test_a_folder_of_unread_files_is_refused_with_their_names(tmp_path):
    shard = folder_of(tmp_path / "s", Law__a__pdf="%PDF", top__txt="beside")
    with pytest.raises(ShardError, match=r"not read: 1 \(beside .*top.txt.*1 \.pdf \(Law/a\.pdf\)"):
        run(shard, tmp_path / "out", layout="folders")


def test_documents_of_white_space_are_left_out_and_counted(tmp_path):
    shard = folder_of(
        tmp_path / "s", Law__a__txt="", Law__b__txt=" \n\u3000", Law__c__txt=" x ", Tax__d__txt="\n"
    )
    counts = run(shard, tmp_path / "out", layout="folders")
    assert texts(tmp_path / "out") == [" x "]
    assert (counts.num_lines, counts.num_documents, counts.num_without_text) == (4, 1, 3)
    assert "tax" not in counts.domains


def test_lists_of_any_case_and_tables_lie_in_folders_too(tmp_path):
    shard = folder_of(
        tmp_path / "s",
        Law__a__JSONL=jsonl("one"),
        Law__b__Csv="text\ntwo\n",
        Law__c__json='[\n {"text": "three"},\n {"text": "four"}\n]\n',
    )
    (shard / "Law" / "d.TXT.GZ").write_bytes(gzip.compress(b"five"))
    run(shard, tmp_path / "out", layout="folders")
    assert texts(tmp_path / "out") == ["one", "two", "three", "four", "five"]


def test_marks_are_taken_off_utf16_is_recoded_and_binary_files_are_rejected(tmp_path):
    shard = folder_of(
        tmp_path / "s",
        Law__a__txt=codecs.BOM_UTF8 + b"one",
        Law__b__txt=codecs.BOM_UTF16_LE + "zwölf 𝄞".encode("utf-16-le"),
        Law__c__txt=codecs.BOM_UTF16_BE + "two".encode("utf-16-be"),
        Law__d__txt="three".encode("utf-16-le"),
        Law__e__txt=b"\xff\xfeab\x00\xd8",
    )
    counts = run(shard, tmp_path / "out", layout="folders", max_reject_rate=0.5)
    assert texts(tmp_path / "out") == ["one", "zwölf 𝄞", "two"]
    assert counts.rejects == {"not_text": 2}
    assert [r["file"] for r in rejects(tmp_path / "out")] == ["Law/d.txt", "Law/e.txt"]
    with pytest.raises(ShardError, match=r"Law/d\.txt looks like text in UTF-16LE: .*iconv"):
        run(shard, tmp_path / "out2", layout="folders")


def test_linked_folders_are_read_and_a_change_in_one_is_noticed(tmp_path):
    elsewhere = folder_of(tmp_path / "elsewhere", a__txt="one", deep__b__txt="two")
    shard = folder_of(tmp_path / "s", Law__c__txt="three")
    (shard / "Tax").symlink_to(elsewhere)
    (shard / "Law" / "linked").symlink_to(elsewhere / "deep")
    (shard / "Law" / "loop").symlink_to(shard)
    before = source_signature(str(shard))
    counts = run(shard, tmp_path / "out", layout="folders")
    assert texts(tmp_path / "out") == ["three", "two"]
    assert texts(tmp_path / "out", "tax") == ["one", "two"]
    assert not counts.unread_files
    (elsewhere / "deep" / "b.txt").write_text("changed")
    assert source_signature(str(shard)) != before


def test_files_beside_the_domains_folders_are_counted_through_the_steps(tmp_path, home):
    root = folder_of(tmp_path / "s", Github__a__txt="one", ArXiv__b__txt="two", beside__txt="three")
    source = {"layout": "folders", "train": [str(root)], "validation": None, "test": None}
    lineage = home.lineage(pico_experiment(tmp_path, source=source))
    make_one(lineage, "raw_pile_shard", "s")
    make_one(lineage, "shard_documents", "s")
    unread = lineage.artifact("shard_documents", "s").require().counts["unread_files"]
    assert unread == {"(beside the domains' folders)": {"num_files": 1, "names": ["beside.txt"]}}


# Labels.


def test_a_file_whose_name_is_not_utf8_is_read_through_the_steps(tmp_path, home):
    """As old shares have them, with names in Latin-1."""
    shard = folder_of(tmp_path / "s", Law__a__txt="one", Tax__b__txt="two")
    (shard / "Law" / os.fsdecode(b"caf\xe9.txt")).write_text("three")
    source = {"layout": "folders", "train": [str(shard)]}
    domains = [domain.model_dump() for domain in DOMAINS]
    lineage = home.lineage(pico_experiment(tmp_path, source=source, domains=domains, merges={}))
    make_one(lineage, "raw_pile_shard", "s")
    make_one(lineage, "shard_documents", "s")
    assert texts(lineage.folder("shard_documents", "s")) == ["one", "three"]


def test_a_label_that_differs_in_case_or_spaces_is_named_and_taken_where_an_alias_says_so(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(jsonl("a", dept="LAW ") + jsonl("b", dept=" tax"))
    with pytest.raises(ShardError, match=r"' tax' \(1, like 'Tax'\).*'aliases'"):
        run(tmp_path / "s.jsonl", tmp_path / "out", **COLUMNS)
    domains = [DOMAINS[0], Domain(key="tax", name="Tax", aliases=(" tax",))]
    run(tmp_path / "s.jsonl", tmp_path / "out", domains=domains, **COLUMNS)
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "tax")) == (["a"], ["b"])


def test_a_folder_in_another_unicode_form_is_another_spelling(tmp_path):
    name = unicodedata.normalize("NFD", "Générale")
    folder_of(tmp_path / "s", Law__a__txt="a")
    (tmp_path / "s" / "Law").rename(tmp_path / "s" / name)
    domains = [Domain(key="general", name=unicodedata.normalize("NFC", name))]
    with pytest.raises(ShardError, match=r"like 'Générale'\)"):
        run(tmp_path / "s", tmp_path / "out", domains=domains, layout="folders")


# The limit to what a record unpacks to.


def test_a_line_is_rejected_by_its_length_alone_wherever_it_lies(tmp_path):
    """Lines of the limit's length and one more, over several blocks of 8 MiB."""
    limit = 20_000
    frame = len(jsonl("")) - 1
    lengths = [limit + (n % 3 == 0) for n in range(1200)] + [9_000_000, 99, 30_000_000]
    content = jsonl(*("x" * (length - frame) for length in lengths))
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(content, 1))
    source = COLUMNS | {"max_document_bytes": limit}
    counts = run(tmp_path / "s.jsonl.gz", tmp_path / "out", max_reject_rate=1.0, **source)
    too_long = [n for n, length in enumerate(lengths, 1) if length > limit]
    assert counts.rejects == {"too_long": len(too_long)}
    assert [r["line_number"] for r in rejects(tmp_path / "out")] == too_long
    assert {len(r["line"]) for r in rejects(tmp_path / "out")} == {1024}
    assert counts.num_lines == len(lengths)
    found = [len(text) + frame for text in texts(tmp_path / "out")]
    assert found == [length for length in lengths if length <= limit]


@pytest.mark.parametrize("name", ["s.parquet", "s.csv", "s.json"])
def test_rows_and_elements_that_are_too_long_are_rejected(tmp_path, name):
    values = ["a", "b" * 3000, "c"]
    if name == "s.parquet":
        pq.write_table(pa.table({"text": values, "dept": ["Law"] * 3}), tmp_path / name)
    elif name == "s.csv":
        (tmp_path / name).write_text("text,dept\n" + "".join(f"{v},Law\n" for v in values))
    else:
        (tmp_path / name).write_text(json.dumps([{"text": v, "dept": "Law"} for v in values]))
    source = COLUMNS | {"max_document_bytes": 2000}
    counts = run(tmp_path / name, tmp_path / "out", max_reject_rate=0.5, **source)
    assert (texts(tmp_path / "out"), counts.rejects) == (["a", "c"], {"too_long": 1})
    (reject,) = rejects(tmp_path / "out")
    assert (reject["line_number"], len(reject["line"])) == (2, 1024)


def test_a_text_file_that_is_too_long_is_rejected(tmp_path):
    shard = folder_of(tmp_path / "s", Law__a__txt="a" * 10, Law__b__txt="b" * 11)
    source = {"layout": "folders", "max_document_bytes": 10}
    counts = run(shard, tmp_path / "out", max_reject_rate=0.5, **source)
    assert (texts(tmp_path / "out"), counts.rejects) == (["a" * 10], {"too_long": 1})


# What was right already.


def test_gzip_of_many_members_cut_inside_a_line_with_a_mark_and_no_last_newline(tmp_path):
    content = codecs.BOM_UTF8 + jsonl("one", "two", "three")[:-1]
    members = [gzip.compress(content[n : n + 11]) for n in range(0, len(content), 11)]
    (tmp_path / "s.jsonl.gz").write_bytes(b"".join(members))
    run(tmp_path / "s.jsonl.gz", tmp_path / "out", **COLUMNS)
    assert texts(tmp_path / "out") == ["one", "two", "three"]


def test_duplicate_keys_and_odd_numbers_in_other_fields_are_read(tmp_path):
    huge = b"9" * 400
    lines = b'{"n":NaN,"text":"x","text":"one","dept":"Law"}\n' + (
        b'{"n":' + huge + b',"m":-Infinity,"text":"two","dept":"Law"}\n'
    )
    compress(lines, tmp_path / "s.jsonl.zst")
    run(tmp_path / "s.jsonl.zst", tmp_path / "out", **COLUMNS)
    assert texts(tmp_path / "out") == ["one", "two"]


def test_nested_structs_of_parquet_are_read_by_dotted_paths(tmp_path):
    docs = pa.array([{"body": {"text": "a", "words": 1}}, {"body": None}])
    pq.write_table(pa.table({"doc": docs, "dept": ["Law", "Law"]}), tmp_path / "s.parquet")
    source = COLUMNS | {"text_field": "doc.body.text"}
    counts = run(tmp_path / "s.parquet", tmp_path / "out", max_reject_rate=0.5, **source)
    assert (texts(tmp_path / "out"), counts.rejects) == (["a"], {"missing_text": 1})
