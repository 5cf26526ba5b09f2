"""The prices of the corpus: of shards, routed documents, clusters and datasets."""

from typing import TYPE_CHECKING

from mdel_assets.line.price import Price

if TYPE_CHECKING:
    from mdel_assets.training.sizes import Sizes

_RECORD_BYTES = 4_000.0
# Bytes in a second: what a source sends, what the pass over a shard reads of text, what datasets
# are written with.
_FETCHED_PER_SECOND = 3.0e7
_ROUTED_PER_SECOND = 5.0e7
_ASSEMBLED_PER_SECOND = 2.0e7
_HASHED_PER_SECOND = 5.0e8
# The memory of the pass over a shard, and of a dataset's shingles; text of any size streams.
_PASS_MEMORY = 350e6


def of_shard(sizes: "Sizes", key: str) -> Price | None:
    """Return the price of a fetched shard; None if its source does not say how large it is."""
    size = sizes.text.shards[key]
    if size is None:
        return None
    shard = next(shard for shard in sizes.experiment.shards() if shard.key == key)
    is_remote = "://" in shard.location
    seconds = size / _FETCHED_PER_SECOND if is_remote else 0.0
    return Price(disk_bytes=size + 900.0, core_seconds=seconds + size / _HASHED_PER_SECOND)


def of_documents(sizes: "Sizes", key: str) -> Price | None:
    """Return the price of a shard's routed documents."""
    amounts = sizes.text.documents[key].values()
    num_bytes = sum(amount.num_bytes for amount in amounts)
    if not num_bytes:
        return None
    return Price(
        disk_bytes=sum(amount.packed_bytes for amount in amounts) + _RECORD_BYTES,
        memory_bytes=_PASS_MEMORY,
        core_seconds=num_bytes / _ROUTED_PER_SECOND,
    )


def of_dataset(sizes: "Sizes", key: str) -> Price | None:
    """Return the price of a domain's dataset; None if its text is not known."""
    splits = sizes.text.datasets.get(key)
    if splits is None or not splits["train"].num_bytes:
        return None
    num_bytes = sum(amount.num_bytes for amount in splits.values())
    return Price(
        disk_bytes=sum(amount.packed_bytes for amount in splits.values()) + _RECORD_BYTES,
        memory_bytes=_PASS_MEMORY,
        core_seconds=0.2 + num_bytes / _ASSEMBLED_PER_SECOND,
    )
