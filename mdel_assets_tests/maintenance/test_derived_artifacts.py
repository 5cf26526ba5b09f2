"""What was made from a domain's text, by records alone."""

from pathlib import Path

import pytest

from mdel_assets.line.recorded_artifacts import Recorded
from mdel_assets.maintenance.derived_artifacts import derived_from
from mdel_assets.publishing.forgotten import marked_in
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

pytestmark = pytest.mark.in_use


def recorded(kind, key, fingerprint, *inputs, folder="home"):
    """An artifact made from ``inputs``: others like it."""
    record = Record(
        kind=kind,
        key=key,
        experiment="pico",
        fingerprint=fingerprint,
        code_version="1",
        config={},
        inputs=dict(entry.identity for entry in inputs),
        counts={},
        details={},
        files={"a": {"size_bytes": 3}, "b": {"size_bytes": 4}},
        versions={},
    )
    place = Path(folder) / kind / key
    return Recorded(Artifact(kind, key, "pico", place, place / "record.json", ""), record)


SHARD = recorded("raw_pile_shard", "00", "s")
DOCUMENTS = recorded("shard_documents", "00", "p", SHARD)
CLUSTERS = recorded("corpus_clusters", "", "c", SHARD)
BOOKS = recorded("domain_dataset", "books", "b", DOCUMENTS)
COURT = recorded("domain_dataset", "court", "d", DOCUMENTS)
SEED = recorded("seed_model", "", "m")
EXPERT = recorded("expert_model", "court", "e", SEED, COURT)
SCORES = recorded("token_scores", "expert-court", "t", EXPERT)
LINE = [SCORES, EXPERT, SEED, COURT, BOOKS, CLUSTERS, DOCUMENTS, SHARD]


def labels(found, counts, *, shards=()):
    derived = derived_from(
        "books", found, shards=shards, count_documents=lambda entry: counts[entry.record.key]
    )
    return {entry.found.artifact.label: entry.reason for entry in derived}


def test_what_holds_its_documents_and_all_that_follows_come_in_the_order_they_were_made():
    found = labels(LINE, {"books": 5, "court": 2}, shards=["00"])
    assert list(found.items()) == [
        ("domain_dataset 'court'", "2 of its documents in the general half"),
        ("expert_model 'court'", "made from domain_dataset 'court'"),
        ("token_scores 'expert-court'", "made from expert_model 'court'"),
        ("domain_dataset 'books'", "its dataset"),
        ("corpus_clusters", "made from raw_pile_shard '00'"),
    ]


def test_nothing_follows_from_a_dataset_without_a_document():
    assert labels(LINE, {"books": 0, "court": 0}) == {}
    assert list(labels(LINE, {"books": 5, "court": 0})) == ["domain_dataset 'books'"]


def test_an_input_that_is_gone_counts_where_the_corpus_has_the_domain():
    left = [entry for entry in LINE if entry is not COURT]
    found = labels(left, {"books": 5})
    assert found["expert_model 'court'"] == "made from domain_dataset 'court', which is gone"
    assert labels(left, {"books": 0}) == {}


def test_its_own_dataset_counts_even_if_it_is_gone():
    own = recorded("expert_model", "books", "o", SEED, BOOKS)
    assert list(labels([own, SEED], {})) == ["expert_model 'books'"]


def test_the_dataset_of_an_absent_domain_that_was_never_made_holds_no_text():
    own = recorded("seed_model", "", "o", BOOKS)
    derived = derived_from(
        "books", [own], shards=[], count_documents=lambda _: 0, never_made={BOOKS.identity}
    )
    assert derived == []


def test_a_dataset_that_was_made_anew_does_not_speak_for_the_one_before():
    anew = recorded("domain_dataset", "court", "anew")
    found = labels([EXPERT, SEED, anew, BOOKS], {"books": 5, "court": 0})
    assert found["expert_model 'court'"] == "made from domain_dataset 'court', which is gone"
    assert "domain_dataset 'court'" not in found


def test_a_damaged_dataset_may_hold_documents_where_the_corpus_has_the_domain():
    assert labels([COURT, BOOKS], {"books": 5, "court": None})["domain_dataset 'court'"]
    assert labels([COURT, BOOKS], {"books": 0, "court": None}) == {}
    assert labels([BOOKS], {"books": None}) == {"domain_dataset 'books'": "its files are damaged"}


def test_a_copied_folder_is_named_as_its_original():
    copy = recorded("expert_model", "court", "e", SEED, COURT, folder="copy")
    derived = derived_from("books", [*LINE, copy], shards=[], count_documents=lambda entry: 1)
    places = {entry.found.artifact.folder for entry in derived}
    assert {copy.artifact.folder, EXPERT.artifact.folder} <= places
    assert copy.size_bytes == 7


def test_a_mark_holds_for_everything_that_follows():
    assert marked_in(SCORES.record, LINE, {"d": "told"}) == "told"
    assert marked_in(SCORES.record, LINE, {"b": "told"}) is None
    assert marked_in(SCORES.record, [], {"e": "told"}) == "told"
    both = {"t": "scores", "e": "expert"}
    assert marked_in(SCORES.record, LINE, both) == "scores"
