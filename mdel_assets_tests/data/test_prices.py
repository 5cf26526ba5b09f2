"""Prices of clusters and routed documents, against what a pass and a fit leave and by hand."""

import pytest

from mdel_assets.data import prices
from mdel_assets.errors import ShardError
from mdel_assets.line.making import make_one
from mdel_assets.training.sizes import Sizes
from mdel_assets_tests.conftest import pico_experiment


@pytest.fixture
def unlabelled(corpus, home):
    """The pico experiment with three clusters instead of labels, over an empty home."""
    return home.lineage(pico_experiment(corpus, domains={"clusters": 3}, merges={}))


def test_disk_of_clusters_is_that_of_made_ones(unlabelled):
    for shard in ("00", "01"):
        make_one(unlabelled, "raw_pile_shard", shard)
    make_one(unlabelled, "corpus_clusters")
    make_one(unlabelled, "shard_documents", "00")
    price = prices.of_clusters(Sizes(unlabelled), "")
    artifact = unlabelled.artifact("corpus_clusters")
    made = sum(file["size_bytes"] for file in artifact.read_record().files.values())
    # 40 documents span 39 directions of 65,536 features; besides those there are frequencies,
    # three centroids and three prices, all in fp32.
    arrays = 4 * (39 * 65_536 + 65_536 + 3 * 39 + 3)
    assert price.disk_bytes == arrays + 4_000
    assert price.disk_bytes == pytest.approx(made, rel=0.01)


def test_clusters_read_only_the_beginnings_of_a_sample(unlabelled):
    sizes = Sizes(unlabelled)
    text = sizes.text.documents["00"]
    num_bytes = sum(amount.num_bytes for amount in text.values())
    num_documents = sum(amount.num_documents for amount in text.values())
    price = prices.of_clusters(sizes, "")
    by_hand = (
        num_bytes / 5e7
        + 2.2
        + 1.7e-3 * num_documents
        + 0.5e-6 * min(4096 * num_documents, num_bytes)
    )
    assert price.core_seconds == pytest.approx(by_hand)
    assert price.memory_bytes > 340e6


def test_dealing_documents_to_clusters_takes_longer_than_routing_them(unlabelled, lineage):
    sizes = Sizes(unlabelled)
    amounts = sizes.text.documents["01"].values()
    num_bytes = sum(amount.num_bytes for amount in amounts)
    num_documents = sum(amount.num_documents for amount in amounts)
    each = 0.08e-3 + 0.18e-6 * min(4096.0, num_bytes / num_documents)
    price = prices.of_documents(sizes, "01")
    assert price.core_seconds == pytest.approx(num_bytes / 5e7 + each * num_documents)
    labelled = Sizes(lineage)
    read = sum(amount.num_bytes for amount in labelled.text.documents["01"].values())
    assert prices.of_documents(labelled, "01").core_seconds == pytest.approx(read / 5e7)


def test_a_source_without_a_size_is_said_to_have_none(corpus, home):
    # Nothing listens there.
    source = {"train": ["http://127.0.0.1:9/00.jsonl.zst"], "validation": None, "test": None}
    sizes = Sizes(home.lineage(pico_experiment(corpus, source=source)))
    (shard,) = sizes.text.shards
    for price in (prices.of_shard, prices.of_documents):
        with pytest.raises(ShardError, match=f"source of shard '{shard}' does not say how large"):
            price(sizes, shard)
    with pytest.raises(ShardError, match="how much text 'github' has is not known"):
        prices.of_dataset(sizes, "github")
