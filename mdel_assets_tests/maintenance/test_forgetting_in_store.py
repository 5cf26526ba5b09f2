"""Forgetting a domain where a store has other versions than the home, and other writers."""

import fcntl

import pytest

from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all
from mdel_assets.maintenance.forgetting import delete_local, plan_forgetting
from mdel_assets.store.in_use import using
from mdel_assets.store.remote.entries import file_name
from mdel_assets_tests.conftest import pico_experiment

KINDS = ["raw_pile_shard", "shard_documents", "domain_dataset"]


def datasets_in(home, experiment):
    """Return the lineage of an experiment after its datasets were made in a home and pushed."""
    lineage = home.lineage(experiment)
    with using():
        for kind in KINDS:
            make_all(lineage, kind, lineage.keys(kind))
    return lineage


@pytest.fixture
def lineage(corpus, home, proxy):
    """A home and a store whose datasets hold documents of their own domain alone."""
    return datasets_in(home, pico_experiment(corpus, mixture={"general_ratio": 0.0}))


def test_the_newest_version_in_the_store_is_forgotten_where_the_one_here_holds_nothing(
    lineage, home, corpus, tmp_path, s3
):
    here = lineage.artifact("domain_dataset", "arxiv")
    ours = here.require()
    there = datasets_in(MdelHome(tmp_path / "other"), pico_experiment(corpus))
    theirs = there.artifact("domain_dataset", "arxiv").require()
    assert [
        (entry.found.artifact.label, entry.found.record)
        for entry in plan_forgetting(home, lineage, "github").derived
        if entry.found.record.key == "arxiv"
    ] == [("domain_dataset 'arxiv'", theirs)]
    assert here.is_here(ours)
    delete_local(home, lineage, "github")
    left = s3.names()
    assert [name for name in left if theirs.fingerprint in name] == []
    assert f"shared/{file_name(theirs.files['train.parquet']['xxh3'])}" not in left
    # What lies here is another version, and has no text of the domain.
    assert here.is_here(ours)
    assert not lineage.artifact("domain_dataset", "github").folder.exists()


def test_files_of_a_push_that_is_under_way_stay(lineage, home, tmp_path, s3):
    github = lineage.artifact("domain_dataset", "github").require()
    path = tmp_path / "file"
    path.write_text("of another experiment, whose entry comes last")
    lineage.remote.client.upload(file_name(32 * "0"), path)
    delete_local(home, lineage, "github")
    left = s3.names("shared/files/")
    assert f"shared/{file_name(32 * '0')}" in left
    assert f"shared/{file_name(github.files['train.parquet']['xxh3'])}" not in left


def test_what_a_killed_fetch_left_is_forgotten_and_what_is_being_fetched_stays(lineage, home):
    partial = lineage.remote._cache / "partial"
    partial.mkdir()
    left, fetched = partial / (32 * "0"), partial / (32 * "1")
    for path in (left, fetched):
        path.write_bytes(b"theorem")
    with fetched.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        plan = delete_local(home, lineage, "github")
    assert (left, "a partly fetched file") in [(text.path, text.holds) for text in plan.text]
    assert not left.exists()
    assert fetched.read_bytes() == b"theorem"


@pytest.mark.parametrize("kind", ["tmp", "old"])
def test_what_a_killed_process_left_half_written_is_forgotten(lineage, home, kind):
    staged = lineage.root / "datasets" / f".github.{kind}-other-host-1-abc"
    staged.mkdir()
    (staged / "train.parquet").write_bytes(b"theorem")
    plan = delete_local(home, lineage, "github")
    assert (staged, "half-written") in [(text.path, text.holds) for text in plan.text]
    assert not staged.exists()
