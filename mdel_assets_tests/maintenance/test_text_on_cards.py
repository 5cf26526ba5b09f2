"""Forgetting the text of a domain that is on kept cards of what was published."""

import re

import dagster as dg
import pytest

from mdel_assets.defs.graph import build_definitions
from mdel_assets.generation.steps import read_samples
from mdel_assets_tests.publishing.conftest import OWNER, hub, own_home, with_hub
from mdel_assets_tests.publishing.test_merge_command import mdel

__all__ = ["hub", "mdel", "own_home"]
PUBLISHED = (("hub_expert", "arxiv"), ("hub_merged_model", "pair"))


@pytest.mark.in_use
def test_text_on_cards_of_what_was_published_is_named_and_removed(mdel, finished, own_home, hub):
    experiment = with_hub(finished[0], endpoint=hub.endpoint, namespace=OWNER)
    lineage = own_home.lineage(experiment)
    own_home.initialize("pico")
    history = own_home.dagster_home("pico")
    job = build_definitions(experiment, own_home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(history)) as instance:
        published = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("hub_expert")], partition_key="arxiv"
        )
    mdel("publish", "merged", "pair")
    texts = [each for each in read_samples(lineage, "expert-arxiv") if each.domain == "arxiv"]
    # Cards escape punctuation, and records of events escape that once more.
    fragment = max(re.split(r"[^\w ]", texts[0].prompt), key=len).encode()
    assert len(fragment) > 12
    cards = [lineage.folder(*each) / "README.md" for each in PUBLISHED]
    assert all(fragment in path.read_bytes() for path in cards)
    before = [lineage.artifact(*each).require() for each in PUBLISHED]
    said = mdel("forget", "--domain", "arxiv")
    for path in cards:
        assert f"text       {path}: beginnings of its documents, on a kept card" in said
    assert f"text       Dagster's run {published.run_id}: sample rows and texts" in said
    mdel("forget", "--domain", "arxiv", "--delete", "--yes")
    files = [path for path in own_home.root.rglob("*") if path.is_file()]
    assert [path for path in files if fragment in path.read_bytes()] == []
    for each, path, record in zip(PUBLISHED, cards, before, strict=True):
        # The record still says where it was published, and holds for the files beside it.
        now = lineage.artifact(*each).require()
        assert (now.fingerprint, now.details) == (record.fingerprint, record.details)
        assert now.files.keys() == record.files.keys()
        assert "## Licence and sources" in path.read_text()
    again = mdel("forget", "--domain", "arxiv").splitlines()
    assert not [line for line in again if line.startswith("text")]
