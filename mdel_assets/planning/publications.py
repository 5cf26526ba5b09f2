"""What publishing would send: no run does that, so a plan tells it beside its sums."""

import math

from mdel_assets.planning.in_words import duration_in_words, size_in_words
from mdel_assets.planning.plan import prices_of
from mdel_assets.planning.wanted import keys_of
from mdel_assets.training.sizes import Sizes


def publishing_in_words(sizes: Sizes) -> str:
    """Return what publishing everything would send, and how long that takes; empty if nothing."""
    found = [
        price
        for kind in sizes.lineage.registry.values()
        if not kind.is_in_line and kind.is_in(sizes.experiment)
        for price in prices_of(sizes, kind, keys_of(sizes, kind))[0].values()
    ]
    if not found:
        return ""
    sent = math.fsum(price.sent_bytes for price in found)
    seconds = math.fsum(price.network_seconds for price in found)
    return (
        f"Publishing is no part of a run. 'mdel publish' of everything would send up to "
        f"{size_in_words(sent)} to {len(found)} repositories, in about "
        f"{duration_in_words(seconds)} at 30 MB/s."
    )
