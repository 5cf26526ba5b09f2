"""The prices of the corpus: of shards, routed documents, clusters and datasets."""

from typing import TYPE_CHECKING

from mdel_assets.data.text_sizes import Amount
from mdel_assets.errors import ShardError
from mdel_assets.line.price import FETCHED_PER_SECOND, Price

if TYPE_CHECKING:
    from mdel_assets.training.sizes import Sizes

_RECORD_BYTES = 4_000.0
# Bytes in a second: what the pass over a shard reads of text, what datasets are written with.
_ROUTED_PER_SECOND = 5.0e7
_ASSEMBLED_PER_SECOND = 2.0e7
_HASHED_PER_SECOND = 5.0e8
# The memory of the pass over a shard, and of a dataset's shingles; text of any size streams.
_PASS_MEMORY = 350e6
# Features of a text's topic, and directions, in fp32; scikit-learn holds some copies in float64.
_FEATURES, _DIRECTIONS = 1 << 16, 100
_FITTING_MEMORY, _FITTING_BYTES_PER_CHARACTER = 340e6, 8.6
# Seconds of a core: to load the libraries, and for a text's beginning to be clustered or assigned.
_SECONDS_TO_FIT, _FITTED_TEXT, _FITTED_CHARACTER = 2.2, 1.7e-3, 0.5e-6
_ASSIGNED_TEXT, _ASSIGNED_CHARACTER = 0.08e-3, 0.18e-6


def of_shard(sizes: "Sizes", key: str) -> Price:
    """Return the price of a fetched shard.

    Raises:
        ShardError: its source does not say how large it is.

    """
    size = _size_of(sizes, key)
    shard = next(shard for shard in sizes.experiment.shards() if shard.key == key)
    is_remote = "://" in shard.location
    seconds = size / FETCHED_PER_SECOND if is_remote else 0.0
    return Price(
        disk_bytes=size + 900.0, core_seconds=size / _HASHED_PER_SECOND, network_seconds=seconds
    )


def of_clusters(sizes: "Sizes", key: str) -> Price:
    """Return the price of clusters: a pass over the first train shard, and a fit to a sample.

    Raises:
        ShardError: the shard's source does not say how large it is.

    """
    domains = sizes.experiment.clusters
    assert domains
    shard = sizes.experiment.shards()[0].key
    text = _text_of(sizes, shard)
    num_texts = min(float(domains.num_documents), text.num_documents)
    characters = num_texts * _read_of_each(text)
    directions = max(1.0, min(_DIRECTIONS, num_texts - 1))
    stored = _FEATURES * (directions + 1) + domains.clusters * (directions + 1)
    return Price(
        disk_bytes=4.0 * stored + _RECORD_BYTES,
        memory_bytes=_FITTING_MEMORY + _FITTING_BYTES_PER_CHARACTER * characters,
        core_seconds=text.num_bytes / _ROUTED_PER_SECOND
        + _SECONDS_TO_FIT
        + _FITTED_TEXT * num_texts
        + _FITTED_CHARACTER * characters,
    )


def of_documents(sizes: "Sizes", key: str) -> Price:
    """Return the price of a shard's routed documents; clusters are found for each document.

    Raises:
        ShardError: the shard's source does not say how large it is.

    """
    text = _text_of(sizes, key)
    seconds = text.num_bytes / _ROUTED_PER_SECOND
    if sizes.experiment.clusters:
        each = _ASSIGNED_TEXT + _ASSIGNED_CHARACTER * _read_of_each(text)
        seconds += each * text.num_documents
    return Price(
        disk_bytes=text.packed_bytes + _RECORD_BYTES,
        memory_bytes=_PASS_MEMORY,
        core_seconds=seconds,
    )


def of_dataset(sizes: "Sizes", key: str) -> Price:
    """Return the price of a domain's dataset.

    Raises:
        ShardError: its text is not known.

    """
    splits = sizes.text.datasets.get(key)
    if splits is None or not splits["train"].num_bytes:
        raise ShardError(
            f"how much text '{key}' has is not known: no source with training text says how large "
            f"it is, or the records that were read have none of it"
        )
    num_bytes = sum(amount.num_bytes for amount in splits.values())
    return Price(
        disk_bytes=sum(amount.packed_bytes for amount in splits.values()) + _RECORD_BYTES,
        memory_bytes=_PASS_MEMORY,
        core_seconds=0.2 + num_bytes / _ASSEMBLED_PER_SECOND,
    )


def _size_of(sizes: "Sizes", shard: str) -> float:
    size = sizes.text.shards[shard]
    if size is None:
        raise ShardError(
            f"the source of shard '{shard}' does not say how large it is, or cannot be reached"
        )
    return size


def _text_of(sizes: "Sizes", shard: str) -> Amount:
    """Return the documents of a shard that have a domain."""
    text = sum(sizes.text.documents[shard].values(), Amount())
    if not text.num_bytes:
        _size_of(sizes, shard)
        raise ShardError(f"how much text shard '{shard}' holds is not known")
    return text


def _read_of_each(text: Amount) -> float:
    """Return how many characters are read of a document, to tell its topic."""
    from mdel_assets.data.clusters import READ_CHARACTERS

    return min(float(READ_CHARACTERS), text.num_bytes / max(1.0, text.num_documents))
