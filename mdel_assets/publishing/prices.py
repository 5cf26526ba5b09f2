"""The prices of publications: what goes to a Hub."""

from mdel_assets.line.price import SENT_PER_SECOND, Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# A card with its chart, which stays here, too; questions to the Hub, and the commit.
_CARD_BYTES, _SECONDS_PER_COMMIT = 40_000.0, 2.0


def of_publication(kind: str, sizes: Sizes, key: str) -> Price | None:
    """Return the price of publishing the artifact of ``kind`` with that key; None without its size.

    A repository that holds the same files already gets none of them again.
    """
    num_bytes = _stored(kind, sizes, key)
    if num_bytes is None:
        return None
    num_bytes += _CARD_BYTES
    if sizes.experiment.hub.report and kind != "domain_dataset":
        num_bytes += _stored("experiment_report", sizes, "") or 0.0
    return Price(
        disk_bytes=RECORD_BYTES + _CARD_BYTES,
        network_seconds=_SECONDS_PER_COMMIT + num_bytes / SENT_PER_SECOND,
        sent_bytes=num_bytes,
    )


def _stored(kind: str, sizes: Sizes, key: str) -> float | None:
    """Return the bytes of an artifact's files, as they are, or as they will be."""
    record = sizes.lineage.artifact(kind, key).read_record()
    if record is not None:
        return float(sum(file["size_bytes"] for file in record.files.values()))
    price_of = sizes.lineage.registry[kind].price
    price = price_of(sizes, key) if price_of else None
    return price.disk_bytes if price else None
