"""Forgetting a domain: all that was made from it is named, and nothing is touched unasked."""

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets_tests.publishing.conftest import OWNER
from mdel_assets_tests.publishing.test_merge_command import mdel

__all__ = ["mdel"]


def files_under(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_everything_derived_is_listed_and_nothing_is_touched(mdel, own_home, hub):
    mdel("publish", "expert", "arxiv")
    before = files_under(own_home.root)
    said = mdel("forget", "--domain", "arxiv")
    root = own_home.root / "pico"
    assert f"text       {root}/documents/00/arxiv.parquet" in said
    lines = {
        line.removeprefix("derived").strip().rsplit("  ", 1)[0].strip(): line
        for line in said.splitlines()
        if line.startswith("derived")
    }
    count = pc.sum(
        pc.equal(
            pq.ParquetDataset(list((root / "datasets" / "github").glob("*.parquet")))
            .read(columns=["domain"])
            .column("domain"),
            "arxiv",
        )
    ).as_py()
    assert f"{count} of its documents in the general half" in lines["domain_dataset 'github'"]
    assert "its dataset" in lines["domain_dataset 'arxiv'"]
    assert "made from expert_model 'github' and 1 more" in lines["merged_model 'pair'"]
    for label in ("seed_model", "expert_model 'arxiv'", "dense_baseline", "perplexity_matrix"):
        assert label in lines
    assert f"published  model {OWNER}/expert-arxiv on {hub.endpoint}" in said
    assert "Nothing was changed" in said
    assert files_under(own_home.root) == before


def test_what_is_marked_is_not_published(mdel, hub):
    mdel("forget", "--domain", "arxiv", "--mark")
    told = mdel("publish", "expert", "arxiv", fails=True)
    assert "marked as forgotten (expert_model 'arxiv', of 'arxiv')" in told
    assert hub.state.repositories() == []


def test_it_is_deleted_here_and_elsewhere_only_when_both_are_asked_for(mdel, own_home, hub):
    mdel("publish", "expert", "arxiv")
    mdel("publish", "expert", "github")
    said = mdel("forget", "--domain", "arxiv", "--delete")
    root = own_home.root / "pico"
    assert not list(root.rglob("*.safetensors"))
    assert not (root / "documents" / "00" / "arxiv.parquet").exists()
    assert (root / "documents" / "00" / "github.parquet").exists()
    assert (root / "shards" / "00" / "00.jsonl.zst").exists()
    assert "What is published stays" in said
    assert len(hub.state.repositories()) == 2
    # Where it was published is still known, and can be deleted later.
    said = mdel("forget", "--domain", "arxiv", "--yes-delete-remote")
    assert f"deleted    model {OWNER}/expert-arxiv on {hub.endpoint}" in said
    assert hub.state.repositories() == []
    assert "deleted  " not in mdel("forget", "--domain", "arxiv", "--yes-delete-remote")


def test_an_unknown_domain_is_refused(mdel):
    assert "Did you mean 'arxiv'" in mdel("forget", "--domain", "arxvi", fails=True)
