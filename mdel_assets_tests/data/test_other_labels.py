"""Documents of labels that no domain claims: rejected, or left out and counted."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdel_assets.data.other_labels import OtherLabels, labels_in_words
from mdel_assets.data.shard_pass import route_documents
from mdel_assets.defs.data import _every_line_is_counted
from mdel_assets.defs.data_metadata import shard_metadata
from mdel_assets.errors import ExperimentError, ShardError
from mdel_assets.experiment.fields import Domain, Source
from mdel_assets.line.making import make_all, make_one
from mdel_assets_tests.conftest import compress, pico_experiment

DOMAINS = [
    Domain(key="github", name="Github", aliases=("GH",)),
    Domain(key="arxiv", name="ArXiv"),
]
# Three documents of domains, three of other labels, in the shard's order.
DOCUMENTS = [
    ("one", "Github"),
    ("two", "EuroParl"),
    ("three", "ArXiv"),
    ("four", "Enron Emails"),
    ("five", "EuroParl"),
    ("six", "GH"),
]


def write_pile(folder, documents):
    return write_lines(
        folder, [{"text": t, "meta": {"pile_set_name": label}} for t, label in documents]
    )


def write_lines(folder, records):
    compress("".join(json.dumps(r) + "\n" for r in records).encode(), folder / "s.jsonl.zst")
    return folder / "s.jsonl.zst"


def write_dolma(folder, documents):
    shard = folder / "s.jsonl.gz"
    lines = [json.dumps({"text": t, "source": label}) + "\n" for t, label in documents]
    shard.write_bytes(gzip.compress("".join(lines).encode()))
    return shard


def write_columns(folder, documents):
    return write_lines(folder, [{"text": t, "where": label} for t, label in documents])


def write_parquet(folder, documents):
    texts, labels = zip(*documents, strict=True)
    table = pa.table({"text": texts, "where": labels})
    pq.write_table(table, folder / "s.parquet", row_group_size=2)
    return folder / "s.parquet"


def write_folders(folder, documents):
    for number, (text, label) in enumerate(documents):
        (folder / "s" / label).mkdir(parents=True, exist_ok=True)
        (folder / "s" / label / f"{number}.txt").write_text(text)
    return folder / "s"


LAYOUTS = {
    "pile": (write_pile, {"layout": "pile"}),
    "dolma": (write_dolma, {"layout": "dolma"}),
    "columns": (write_columns, {"layout": "columns", "domain_field": "where"}),
    "parquet": (write_parquet, {"layout": "columns", "domain_field": "where"}),
    "folders": (write_folders, {"layout": "folders"}),
}
ALL_LAYOUTS = pytest.mark.parametrize(("write", "source"), LAYOUTS.values(), ids=LAYOUTS.keys())


def run(shard, out, *, max_reject_rate=0.0, **source):
    out.mkdir(exist_ok=True)
    settings = Source(train=(str(shard),), max_reject_rate=max_reject_rate, **source)
    return route_documents(shard, out, domains=DOMAINS, source=settings)


def texts(folder, domain):
    return pq.read_table(folder / f"{domain}.parquet").column("text").to_pylist()


@ALL_LAYOUTS
def test_documents_of_other_labels_are_left_out_and_counted(tmp_path, write, source):
    counts = run(write(tmp_path, DOCUMENTS), tmp_path / "out", other_labels="leave_out", **source)
    assert texts(tmp_path / "out", "arxiv") == ["three"]
    assert sorted(texts(tmp_path / "out", "github")) == ["one", "six"]
    assert counts.unknown_labels == {"EuroParl": 2, "Enron Emails": 1}
    assert (counts.num_lines, counts.num_documents, counts.num_unclaimed) == (6, 3, 3)
    assert (counts.num_rejects, counts.rejects, counts.similar_labels) == (0, {}, {})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "arxiv.parquet",
        "github.parquet",
        "rejects.parquet",
    ]


@ALL_LAYOUTS
def test_documents_of_other_labels_are_rejected_by_default(tmp_path, write, source):
    shard = write(tmp_path, DOCUMENTS)
    counts = run(shard, tmp_path / "out", max_reject_rate=0.5, **source)
    assert counts.rejects == {"unknown_domain": 3}
    assert (counts.num_documents, counts.num_unclaimed) == (3, 0)
    assert counts.unknown_labels == {"EuroParl": 2, "Enron Emails": 1}
    lines = pq.read_table(tmp_path / "out" / "rejects.parquet").column("line").to_pylist()
    for text in (b"two", b"four", b"five"):
        assert any(text in line for line in lines)


@ALL_LAYOUTS
def test_a_refusal_names_the_labels_and_leaving_them_out_first(tmp_path, write, source):
    with pytest.raises(ShardError) as error:
        run(write(tmp_path, DOCUMENTS), tmp_path / "out", **source)
    message = str(error.value)
    assert "3 of 6 lines were rejected" in message
    assert "of no domain: 'EuroParl' (2), 'Enron Emails' (1)" in message
    remedies = ["source.other_labels: leave_out", "Otherwise correct the shard", "max_reject_rate"]
    places = [message.index(remedy) for remedy in remedies]
    assert places == sorted(places)
    # Nothing there looks like a misspelling.
    assert "aliases" not in message


def test_other_rejects_do_not_speak_of_labels(tmp_path):
    compress(b'{"text":"a","meta":{"pile_set_name":"ArXiv"}}\n{\n', tmp_path / "s.jsonl.zst")
    with pytest.raises(ShardError, match=r"is allowed\. Correct the shard, or raise") as error:
        run(tmp_path / "s.jsonl.zst", tmp_path / "out")
    assert "other_labels" not in str(error.value)


@ALL_LAYOUTS
@pytest.mark.parametrize("label", ["GitHub", "git-hub", "GIT HUB"])
def test_another_spelling_of_a_domains_label_is_never_left_out(tmp_path, write, source, label):
    shard = write(tmp_path, [*DOCUMENTS, ("seven", label)])
    with pytest.raises(ShardError) as error:
        run(shard, tmp_path / "out", other_labels="leave_out", **source)
    message = str(error.value)
    assert "1 of 7 lines were rejected" in message
    assert f"'{label}' (1, like 'Github')" in message
    assert "add it to that domain's 'aliases'" in message
    counts = run(shard, tmp_path / "out2", other_labels="leave_out", max_reject_rate=0.5, **source)
    assert (counts.num_unclaimed, counts.rejects) == (3, {"unknown_domain": 1})


@ALL_LAYOUTS
def test_a_label_like_a_domains_is_left_out_with_a_warning(tmp_path, write, source, caplog):
    shard = write(tmp_path, [*DOCUMENTS, ("seven", "Githubb")])
    with caplog.at_level("INFO", logger="mdel_assets"):
        counts = run(shard, tmp_path / "out", other_labels="leave_out", **source)
    assert counts.num_unclaimed == 4
    assert counts.similar_labels == {"Githubb": "Github"}
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "4 documents with labels of no domain were left out" in warning
    assert "'Githubb' (1, like 'Github'), 'EuroParl' (2)" in warning


def test_a_refusal_says_what_a_misspelt_label_may_stand_for(tmp_path):
    shard = write_pile(tmp_path, [("a", "Github"), ("b", "Githubb")])
    with pytest.raises(ShardError, match=r"'Githubb' \(1, like 'Github'\).*leave_out.*'aliases'"):
        run(shard, tmp_path / "out")


@ALL_LAYOUTS
def test_a_shard_of_other_labels_only_is_refused(tmp_path, write, source):
    """A wrong table of domains would otherwise leave out the whole corpus without a word."""
    shard = write(tmp_path, [("a", "EuroParl"), ("b", "EuroParl")])
    with pytest.raises(ShardError, match=r"'EuroParl' \(2\).*any of the wanted domains"):
        run(shard, tmp_path / "out", other_labels="leave_out", **source)


def test_a_record_without_a_label_is_rejected_where_other_labels_are_left_out(tmp_path):
    shard = write_lines(tmp_path, [{"text": "a", "where": "ArXiv"}, {"text": "b"}])
    counts = run(
        shard,
        tmp_path / "out",
        layout="columns",
        domain_field="where",
        other_labels="leave_out",
        max_reject_rate=0.5,
    )
    assert (counts.rejects, counts.num_unclaimed) == ({"missing_domain": 1}, 0)


def test_what_is_left_out_does_not_depend_on_the_neighbouring_lines(tmp_path):
    """A clean block is taken at once; one with a broken line goes line by line."""
    clean = write_pile(tmp_path, DOCUMENTS)
    first = run(clean, tmp_path / "one", other_labels="leave_out")
    (tmp_path / "s.jsonl").write_bytes(
        b"{\n"
        + b"".join(
            json.dumps({"text": t, "meta": {"pile_set_name": label}}).encode() + b"\n"
            for t, label in DOCUMENTS
        )
    )
    second = run(
        tmp_path / "s.jsonl", tmp_path / "two", other_labels="leave_out", max_reject_rate=0.5
    )
    assert second.num_unclaimed == first.num_unclaimed == 3
    assert texts(tmp_path / "one", "github") == texts(tmp_path / "two", "github")


def test_a_file_that_is_no_text_in_a_folder_that_is_left_out_is_no_reject(tmp_path):
    shard = write_folders(tmp_path, DOCUMENTS)
    (shard / "EuroParl" / "picture.txt").write_bytes(b"\x89PNG\xff")
    counts = run(shard, tmp_path / "out", layout="folders", other_labels="leave_out")
    assert (counts.num_unclaimed, counts.num_rejects) == (4, 0)


def test_licence_and_label_leave_a_document_out_once(tmp_path):
    records = [
        {"text": "a", "source": "ArXiv", "metadata": {"license": "CC0"}},
        {"text": "b", "source": "ArXiv"},
        {"text": "c", "source": "EuroParl", "metadata": {"license": "CC0"}},
        {"text": "d", "source": "EuroParl"},
    ]
    counts = run(
        write_lines(tmp_path, records),
        tmp_path / "out",
        layout="dolma",
        licenses=("cc*",),
        other_labels="leave_out",
    )
    assert (counts.num_documents, counts.num_filtered, counts.num_unclaimed) == (1, 2, 1)


def test_languages_that_differ_by_a_sign_are_different_labels():
    labels = OtherLabels(["C", "Objective-C"])
    assert not any(map(labels.is_another_spelling, ("C++", "C#", "Objective-C++")))
    assert all(map(labels.is_another_spelling, ("c", "objective_c", "ObjectiveC")))


def test_a_rare_similar_label_is_shown_before_frequent_other_ones():
    labels = OtherLabels(["Github"])
    for number in range(100):
        for _ in range(2):
            labels.count(f"host {number:03}")
    labels.count("Githbu")
    shown = labels.most_common()
    assert (len(shown), shown["Githbu"]) == (21, 1)
    words = labels_in_words(shown, labels.similar())
    assert words.startswith("'Githbu' (1, like 'Github'), 'host 000' (2), ")
    assert words.endswith(", ...")


def test_labels_without_end_take_bounded_memory():
    labels = OtherLabels(["Github"])
    for number in range(10_100):
        labels.count(f"{number:06}")
    labels.count("000000")
    assert len(labels._counts) == 10_000
    assert next(iter(labels.most_common().items())) == ("000000", 2)


def test_an_unknown_value_is_refused(tmp_path):
    with pytest.raises(
        ExperimentError, match=r"source\.other_labels: expected one of reject, leave"
    ):
        pico_experiment(tmp_path, source={"other_labels": "drop"})


def two_shards(folder):
    for number, name in enumerate(("00", "01")):
        documents = [(f"{name} {label} {n}", label) for n in range(30) for label in _LABELS]
        lines = [json.dumps({"text": t, "meta": {"pile_set_name": s}}) for t, s in documents]
        compress("\n".join(lines[number:]).encode(), folder / f"{name}.jsonl.zst")


_LABELS = ("Github", "ArXiv", "FreeLaw", "EuroParl")


def experiment_of(folder, **source):
    domains = [{"key": "github", "name": "Github"}, {"key": "arxiv", "name": "ArXiv"}]
    places = {"train": [str(folder / "*.jsonl.zst")], "validation": None, "test": None}
    changes = {"holdout_fraction": 0.3, **source}
    return pico_experiment(folder, domains=domains, merges={}, source=places | changes)


def test_several_shards_go_through_the_data_stage_with_some_of_their_domains(tmp_path, home):
    two_shards(tmp_path)
    lineage = home.lineage(experiment_of(tmp_path, other_labels="leave_out"))
    for shard, num_unclaimed in (("00", 60), ("01", 60)):
        make_one(lineage, "raw_pile_shard", shard)
        record = make_one(lineage, "shard_documents", shard)
        assert record.counts["num_unclaimed"] == num_unclaimed
        check = _every_line_is_counted(record, lineage.artifact("shard_documents", shard))
        assert check.passed
        shown = shard_metadata(record)
        assert shown["num_unclaimed"] == num_unclaimed
        assert shown["unknown_labels"].value == {"FreeLaw": 30, "EuroParl": 30}
    datasets = make_all(lineage, "domain_dataset", ["github", "arxiv"])
    for key, num_documents in (("github", 59), ("arxiv", 60)):
        own = ("train", "validation_domain", "test_domain")
        counts = datasets[key].counts
        assert sum(counts[split]["num_domain_documents"] for split in own) == num_documents


def test_the_check_fails_where_a_line_is_lost(tmp_path, home):
    two_shards(tmp_path)
    lineage = home.lineage(experiment_of(tmp_path, other_labels="leave_out"))
    make_one(lineage, "raw_pile_shard", "00")
    record = make_one(lineage, "shard_documents", "00")
    record.counts["num_unclaimed"] -= 1
    assert not _every_line_is_counted(record, lineage.artifact("shard_documents", "00")).passed


def test_an_artifact_made_before_stays_current_unless_labels_are_left_out(tmp_path, home):
    two_shards(tmp_path)
    lineage = home.lineage(experiment_of(tmp_path, max_reject_rate=0.6))
    make_one(lineage, "raw_pile_shard", "00")
    make_one(lineage, "shard_documents", "00")
    config = lineage.identity("shard_documents", "00").config
    # What the identity of `shard_documents` was made of before there was the setting.
    assert set(config) == {
        "layout",
        "text_field",
        "domain_field",
        "max_reject_rate",
        "lone_surrogates",
        "domains",
    }
    said = home.lineage(experiment_of(tmp_path, max_reject_rate=0.6, other_labels="reject"))
    assert said.stale("shard_documents", "00") is None
    left_out = experiment_of(tmp_path, max_reject_rate=0.6, other_labels="leave_out")
    assert home.lineage(left_out).stale("shard_documents", "00") is not None


def test_a_record_from_before_the_setting_is_shown(tmp_path, home):
    two_shards(tmp_path)
    lineage = home.lineage(experiment_of(tmp_path, max_reject_rate=0.6))
    make_one(lineage, "raw_pile_shard", "00")
    record = make_one(lineage, "shard_documents", "00")
    for name in ("num_unclaimed", "similar_labels"):
        del record.counts[name]
    assert shard_metadata(record)["num_unclaimed"] == 0
    assert _every_line_is_counted(record, lineage.artifact("shard_documents", "00")).passed
