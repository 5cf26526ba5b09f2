"""Prices of publications, against what a publication leaves in a folder."""

import pytest

from mdel_assets.line.price import SENT_PER_SECOND
from mdel_assets.planning.publications import publishing_in_words
from mdel_assets.publishing.prices import of_publication
from mdel_assets.publishing.publisher import make_publisher
from mdel_assets.publishing.steps import PUBLISH
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.publishing.conftest import with_hub

SOURCES = {
    "hub_dataset": ("domain_dataset", "github"),
    "hub_expert": ("expert_model", "github"),
    "hub_merged_model": ("merged_model", "mean-all"),
}


@pytest.mark.parametrize("kind", list(SOURCES))
def test_what_is_sent_is_what_a_publication_holds(finished, branched, own_home, tmp_path, kind):
    experiment = with_hub(finished[0], namespace="local")
    lineage = own_home.lineage(experiment)
    publisher = make_publisher(experiment, endpoint=f"file:{tmp_path}/hub", environment={})
    source, key = SOURCES[kind]
    PUBLISH[kind](lineage, key, publisher=publisher)
    (revision,) = {path.resolve() for path in (tmp_path / "hub").rglob("main")}
    sent = sum(path.stat().st_size for path in revision.rglob("*") if path.is_file())
    price = of_publication(source, Sizes(lineage), key)
    # A card's chart has the figures of three domains here, and is small.
    assert price.sent_bytes == pytest.approx(sent, rel=0.1, abs=35_000)
    assert price.network_seconds == 2.0 + price.sent_bytes / SENT_PER_SECOND
    # Before it is made, it is as large as it is planned to be.
    before = of_publication(source, Sizes(branched[1].lineage(experiment)), key)
    assert before.sent_bytes == pytest.approx(price.sent_bytes, rel=0.1, abs=20_000)


def test_a_plan_tells_what_publishing_everything_sends(branched):
    experiment, home = branched
    sizes = Sizes(home.lineage(experiment))
    keys = {"domain_dataset": 3, "expert_model": 3, "merged_model": 3}
    names = {"merged_model": list(experiment.merges)}
    sent = 0.0
    for kind, count in keys.items():
        own = names.get(kind, ["github", "arxiv", "freelaw"])
        assert len(own) == count
        sent += sum(of_publication(kind, sizes, key).sent_bytes for key in own)
    told = publishing_in_words(sizes)
    assert f"{sent / 1e6:.1f} MB to 9 repositories" in told
    # Nine commits of two seconds, and the bytes at 30 MB/s.
    assert f"about {9 * 2 + sent / 3e7:.0f} s at 30 MB/s" in told
