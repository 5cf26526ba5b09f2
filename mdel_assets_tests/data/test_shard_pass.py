"""One pass over a shard: every line is a document, a counted reject, or blank."""

import gzip
import json
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest
import xxhash

from mdel_assets.data.shard_pass import route_documents
from mdel_assets.errors import ShardError
from mdel_assets.experiment.fields import Domain, Source
from mdel_assets.machine import progress
from mdel_assets_tests.conftest import compress, make_documents, write_shard

DOMAINS = [
    Domain(key="github", name="Github", aliases=("GitHub",)),
    Domain(key="arxiv", name="ArXiv"),
    Domain(key="freelaw", name="FreeLaw"),
]


def run(shard, out, *, max_reject_rate=1.0, **source):
    out.mkdir(exist_ok=True)
    return route_documents(
        shard,
        out,
        domains=DOMAINS,
        source=Source(train=(str(shard),), max_reject_rate=max_reject_rate, **source),
    )


def line(text, label="Github", **more):
    return json.dumps({"text": text, "meta": {"pile_set_name": label}, **more}).encode()


def texts(folder, domain):
    return pq.read_table(folder / f"{domain}.parquet").column("text").to_pylist()


def test_each_domain_gets_its_documents_in_the_shards_order(tmp_path):
    documents = make_documents({"Github": 50, "ArXiv": 30, "FreeLaw": 20})
    counts = run(write_shard(tmp_path / "s.jsonl.zst", documents), tmp_path / "out")
    for key, label in {"github": "Github", "arxiv": "ArXiv", "freelaw": "FreeLaw"}.items():
        expected = [d["text"] for d in documents if d["meta"]["pile_set_name"] == label]
        assert texts(tmp_path / "out", key) == expected
        assert counts.domains[key].num_documents == len(expected)
        assert counts.domains[key].num_bytes == sum(len(t.encode()) for t in expected)
    assert (counts.num_lines, counts.num_documents, counts.num_rejects) == (100, 100, 0)


def test_document_id_is_the_xxh3_digest_of_the_text(tmp_path):
    run(write_shard(tmp_path / "s.jsonl.zst", [line("žluťoučký")]), tmp_path / "out")
    ids = pq.read_table(tmp_path / "out" / "github.parquet").column("document_id").to_pylist()
    assert ids == [xxhash.xxh3_128("žluťoučký".encode()).hexdigest()]


CASES = {
    "clean": (line("a"), None),
    "alias": (line("a", "GitHub"), None),
    "other key order": (b'{"meta":{"x":1,"pile_set_name":"Github"},"id":[1],"text":"a"}', None),
    "other spacing": (b' { "text" : "a" , "meta" : {"pile_set_name":"Github"} } ', None),
    "carriage return": (line("a") + b"\r", None),
    "duplicate key, the last counts": (b'{"text":"x",' + line("a")[1:], None),
    "escaped slash": (b'{"text":"\\/","meta":{"pile_set_name":"Github"}}', None),
    "escaped zero": (b'{"text":"\\u0000","meta":{"pile_set_name":"Github"}}', None),
    "empty text": (line(""), "without text"),
    "a text of white space": (line(" \n\t\u00a0"), "without text"),
    "white space, and no label": (
        b'{"text":" ","meta":{"pile_set_name":"Githubb"}}',
        "without text",
    ),
    "lone surrogate": (b'{"text":"a\\ud800b","meta":{"pile_set_name":"Github"}}', "repaired"),
    "escaped key": (b'{"te\\u0078t":"a","meta":{"pile_set_name":"Github"}}', None),
    "a number without end elsewhere": (b'{"n":' + b"9" * 5000 + b"," + line("a")[1:], None),
    "not a number elsewhere": (b'{"n":NaN,' + line("a")[1:], None),
    "blank": (b"", "blank"),
    "spaces": (b" \t\r", "blank"),
    "not JSON": (b"{", "invalid_json"),
    "two documents on one line": (line("a") + line("b"), "invalid_json"),
    "raw control character": (b'{"text":"\x01","meta":{"pile_set_name":"Github"}}', "invalid_json"),
    "invalid UTF-8": (b'{"text":"\xff","meta":{"pile_set_name":"Github"}}', "invalid_utf8"),
    "invalid UTF-8 elsewhere": (b'{"x":"\xff",' + line("a")[1:], "invalid_utf8"),
    "raw control character elsewhere": (b'{"x":"\x01",' + line("a")[1:], "invalid_json"),
    "a list": (b"[1]", "not_an_object"),
    "no text": (b'{"meta":{"pile_set_name":"Github"}}', "missing_text"),
    "null text": (line(None), "missing_text"),
    "a list of strings as text": (line(["a", "b"]), "text_not_a_string"),
    "an integer as label": (line("a", 7), "domain_not_a_label"),
    "a number as text": (line(7), "text_not_a_string"),
    "no meta": (b'{"text":"a"}', "missing_domain"),
    "null meta": (b'{"text":"a","meta":null}', "missing_domain"),
    "null label": (line("a", None), "missing_domain"),
    "a label no domain claims": (line("a", "Githubb"), "unknown_domain"),
    "deep nesting": (b'{"x":' + b"[" * 9999 + b"]" * 9999 + b"," + line("a")[1:], "too_deep"),
}


@pytest.mark.parametrize(("content", "fate"), CASES.values(), ids=CASES.keys())
def test_every_kind_of_line_has_its_fate(tmp_path, content, fate):
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("before"), content, line("after")])
    counts = run(shard, tmp_path / "out")
    assert counts.num_lines == 3
    left_out = counts.num_blank_lines + counts.num_without_text
    assert counts.num_lines == counts.num_documents + counts.num_rejects + left_out
    assert counts.num_blank_lines == (fate == "blank")
    assert counts.num_without_text == (fate == "without text")
    assert counts.num_repaired == (fate == "repaired")
    is_document = fate in (None, "repaired")
    assert counts.num_documents == 2 + is_document
    is_left_out = fate in ("blank", "without text")
    assert counts.rejects == ({} if is_document or is_left_out else {fate: 1})
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    expected = {"file": "s.jsonl.zst", "line_number": 2, "reason": fate, "line": content}
    assert rejects == ([expected] if counts.num_rejects else [])
    found = texts(tmp_path / "out", "github")
    assert (found[0], found[-1]) == ("before", "after")
    if fate == "repaired":
        assert found[1] == "a\ufffdb"


def test_a_last_line_without_newline_counts(tmp_path):
    compress(line("a") + b"\n" + line("b"), tmp_path / "s.jsonl.zst")
    assert run(tmp_path / "s.jsonl.zst", tmp_path / "out").num_documents == 2


def test_lines_across_blocks_and_row_groups_stay_whole(tmp_path):
    """Twenty documents of 3 MB: longer than half a block, several row groups."""
    documents = [
        {"text": f"{i}" + "x" * 3_000_000, "meta": {"pile_set_name": "ArXiv"}} for i in range(20)
    ]
    shard = write_shard(tmp_path / "s.jsonl.zst", documents)
    run(shard, tmp_path / "out")
    assert texts(tmp_path / "out", "arxiv") == [d["text"] for d in documents]
    assert pq.ParquetFile(tmp_path / "out" / "arxiv.parquet").num_row_groups == 4


def test_plain_and_gzip_shards_and_other_fields_are_read(tmp_path):
    content = b'{"body":{"text":"a"},"source":"ArXiv"}\n'
    (tmp_path / "plain.jsonl").write_bytes(content)
    (tmp_path / "zip.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("plain.jsonl", "zip.jsonl.gz"):
        out = tmp_path / f"out-{name}"
        run(tmp_path / name, out, text_field="body.text", domain_field="source")
        assert texts(out, "arxiv") == ["a"]


def test_more_rejects_than_allowed_refuse_the_shard(tmp_path):
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("a")] * 9 + [b"{"])
    with pytest.raises(ShardError, match=r"1 of 10 lines .*invalid_json.*max_reject_rate"):
        run(shard, tmp_path / "out", max_reject_rate=0.05)
    assert run(shard, tmp_path / "out2", max_reject_rate=0.1).num_documents == 9


def test_a_shard_without_a_readable_document_is_refused(tmp_path):
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("a", "Nowhere"), b"{"])
    with pytest.raises(ShardError, match=r"no readable document.*of no domain: 'Nowhere'"):
        run(shard, tmp_path / "out")


def test_what_a_line_becomes_does_not_depend_on_its_neighbours(tmp_path):
    """A clean block is decoded at once, any other line by line: both agree on every kind of line.

    Each case stands once among clean lines only, and once beside a line that is not JSON.
    """
    for name, (content, _) in CASES.items():
        alone = write_shard(tmp_path / "alone.jsonl.zst", [line("x"), content])
        beside = write_shard(tmp_path / "beside.jsonl.zst", [line("x"), content, b"{"])
        first, second = run(alone, tmp_path / "one"), run(beside, tmp_path / "two")
        assert first.num_documents == second.num_documents, name
        assert texts(tmp_path / "one", "github") == texts(tmp_path / "two", "github"), name


def test_a_doubled_line_and_a_blank_one_are_not_two_documents(tmp_path):
    """As many values as lines, and yet not one in each."""
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("a") + line("b"), b"", line("c")])
    counts = run(shard, tmp_path / "out")
    assert (counts.num_documents, counts.num_rejects, counts.num_blank_lines) == (1, 1, 1)


def test_carriage_returns_take_nothing_from_a_block(tmp_path):
    content = b"\r\n".join([line("a"), line("b"), line("c"), b""])
    compress(content, tmp_path / "s.jsonl.zst")
    assert run(tmp_path / "s.jsonl.zst", tmp_path / "out").num_documents == 3


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b"\xef\xbb\xbf" + line("a") + b"\n" + line("b"))
    run(tmp_path / "s.jsonl", tmp_path / "out")
    assert texts(tmp_path / "out", "github") == ["a", "b"]


def test_a_pass_tells_how_far_it_is_and_what_came_of_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN", 0.0)
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("a"), b"{", line("b")])
    with caplog.at_level("INFO", logger="mdel_assets"):
        run(shard, tmp_path / "out")
    during, after = (record.getMessage() for record in caplog.records)
    assert re.match(r"s.jsonl.zst: 100 % read, 2 documents, \d+ MB/s of text, 0 s left", during)
    assert after.startswith("s.jsonl.zst: 3 lines became 2 documents, 1 rejects; 0 MB of text in")


def test_lone_surrogates_can_be_rejected(tmp_path):
    lone = b'{"text":"a\\ud800b","meta":{"pile_set_name":"Github"}}'
    counts = run(
        write_shard(tmp_path / "s.jsonl.zst", [line("a"), lone]),
        tmp_path / "out",
        lone_surrogates="reject",
    )
    assert (counts.num_documents, counts.rejects) == (1, {"lone_surrogate": 1})


def test_a_line_of_a_hundred_megabytes_is_a_document(tmp_path):
    long = "ab" * 50_000_000
    shard = write_shard(tmp_path / "s.jsonl.zst", [line("x"), line(long), line("y")])
    run(shard, tmp_path / "out")
    ids = pq.read_table(tmp_path / "out" / "github.parquet", columns=["document_id"])
    expected = [xxhash.xxh3_128(text.encode()).hexdigest() for text in ("x", long, "y")]
    assert ids.column(0).to_pylist() == expected


def test_reading_stops_early_where_nothing_is_a_document(tmp_path):
    """Blocks hold 8 MiB: the second one is not read."""
    wrong = [json.dumps({"content": "x" * 8000, "meta": {}}).encode()] * 3000
    shard = write_shard(tmp_path / "s.jsonl.zst", wrong)
    with pytest.raises(ShardError, match=r"in 10\d\d lines: rejects \{'missing_text': 10\d\d\}"):
        run(shard, tmp_path / "out", max_reject_rate=1e-4)
    # What was read until then can be looked at.
    assert pq.read_metadata(tmp_path / "out" / "rejects.parquet").num_rows >= 1000


def test_the_same_shard_gives_the_same_bytes(tmp_path):
    documents = make_documents({"Github": 200, "ArXiv": 100})
    shard = write_shard(tmp_path / "s.jsonl.zst", documents)
    for name in ("one", "two"):
        run(shard, tmp_path / name)
    files = Counter(p.name for p in (tmp_path / "one").iterdir())
    assert set(files) == {"github.parquet", "arxiv.parquet", "rejects.parquet"}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
