"""The price of comparing results; what tasks themselves take is not foretold."""

from mdel_assets.line.price import Price
from mdel_assets.training.sizes import Sizes


def of_table(sizes: Sizes, key: str) -> Price:
    """Return the price of the table and its chart."""
    return Price(disk_bytes=100_000.0, core_seconds=1.5)
