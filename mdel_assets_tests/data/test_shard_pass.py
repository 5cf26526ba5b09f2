"""One pass over a shard: every line is a document, a counted reject, or blank."""

import gzip
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
import xxhash

from mdel_assets.data.shard_pass import route_documents
from mdel_assets.errors import ShardError
from mdel_assets.experiment_fields import Domain
from mdel_assets_tests.conftest import compress, make_document, make_documents, write_shard

DOMAINS = [
    Domain(key="github", name="Github", aliases=("GitHub",)),
    Domain(key="arxiv", name="ArXiv"),
    Domain(key="freelaw", name="FreeLaw"),
]


def run(shard, out, *, max_reject_rate=1.0, text_field="text", domain_field="meta.pile_set_name"):
    out.mkdir(exist_ok=True)
    return route_documents(
        shard,
        out,
        domains=DOMAINS,
        text_field=text_field,
        domain_field=domain_field,
        max_reject_rate=max_reject_rate,
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
    "empty text": (line(""), None),
    "lone surrogate": (b'{"text":"a\\ud800b","meta":{"pile_set_name":"Github"}}', "repaired"),
    "blank": (b"", "blank"),
    "spaces": (b" \t\r", "blank"),
    "not JSON": (b"{", "invalid_json"),
    "two documents on one line": (line("a") + line("b"), "invalid_json"),
    "raw control character": (b'{"text":"\x01","meta":{"pile_set_name":"Github"}}', "invalid_json"),
    "invalid UTF-8": (b'{"text":"\xff","meta":{"pile_set_name":"Github"}}', "invalid_utf8"),
    "a list": (b"[1]", "not_an_object"),
    "no text": (b'{"meta":{"pile_set_name":"Github"}}', "missing_text"),
    "null text": (line(None), "missing_text"),
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
    assert counts.num_lines == counts.num_documents + counts.num_rejects + counts.num_blank_lines
    assert counts.num_blank_lines == (fate == "blank")
    assert counts.num_repaired == (fate == "repaired")
    is_document = fate in (None, "repaired")
    assert counts.num_documents == 2 + is_document
    assert counts.rejects == ({} if is_document or fate == "blank" else {fate: 1})
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    expected = [{"line_number": 2, "reason": fate, "line": content}] if counts.num_rejects else []
    assert rejects == expected
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
    with pytest.raises(ShardError, match=r"no readable document.*no domain claims: 'Nowhere'"):
        run(shard, tmp_path / "out")


def test_a_truncated_shard_is_refused(tmp_path):
    documents = [make_document("ArXiv", i) for i in range(3000)]
    whole = write_shard(tmp_path / "s.jsonl.zst", documents).read_bytes()
    for kept in (3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.jsonl.zst").write_bytes(whole[:kept])
        with pytest.raises(ShardError, match="truncated"):
            run(tmp_path / "cut.jsonl.zst", tmp_path / "out")


def test_concatenated_frames_are_one_shard(tmp_path):
    first = write_shard(tmp_path / "a.jsonl.zst", [line("a")]).read_bytes()
    second = write_shard(tmp_path / "b.jsonl.zst", [line("b")]).read_bytes()
    (tmp_path / "s.jsonl.zst").write_bytes(first + second)
    run(tmp_path / "s.jsonl.zst", tmp_path / "out")
    assert texts(tmp_path / "out", "github") == ["a", "b"]


def test_the_same_shard_gives_the_same_bytes(tmp_path):
    documents = make_documents({"Github": 200, "ArXiv": 100})
    shard = write_shard(tmp_path / "s.jsonl.zst", documents)
    for name in ("one", "two"):
        run(shard, tmp_path / name)
    files = Counter(p.name for p in (tmp_path / "one").iterdir())
    assert set(files) == {"github.parquet", "arxiv.parquet", "rejects.parquet"}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
