"""The n-th smallest of many numbers that are never held all at once.

Non-negative fp32 numbers have the same order as their bits read as integers. One pass counts the
upper 16 bits, which gives the bucket of the wanted number; a second pass counts the lower bits in
that bucket. Both are exact for any number of pieces.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_LOW_BITS = 15
_LOW_MASK = (1 << _LOW_BITS) - 1
_NUM_BUCKETS = 1 << 16


def nth_smallest(
    pieces: "Callable[[], Iterator[Iterable[torch.Tensor]]]", ranks: Sequence[Sequence[int]]
) -> list[dict[int, float]]:
    """Return, for each of several streams, the numbers at ``ranks`` (0 is the smallest).

    ``pieces`` yields pieces of all streams side by side, flat, in fp32 and not negative. A stream
    without ranks is skipped.
    """
    counts = _count(pieces, ranks)
    found: list[dict[int, float]] = []
    buckets: list[dict[int, tuple[int, int]]] = []
    for stream, wanted in enumerate(ranks):
        ends = np.cumsum(counts[stream], dtype=np.int64) if wanted else np.zeros(0, np.int64)
        places = {rank: int(np.searchsorted(ends, rank, side="right")) for rank in wanted}
        buckets.append({r: (b, r - (int(ends[b - 1]) if b else 0)) for r, b in places.items()})
        found.append({})
    lower = _count_lower(pieces, buckets)
    for stream, places_of in enumerate(buckets):
        for rank, (bucket, rest) in places_of.items():
            ends = np.cumsum(lower[stream][bucket], dtype=np.int64)
            bits = (bucket << _LOW_BITS) | int(np.searchsorted(ends, rest, side="right"))
            found[stream][rank] = float(np.int32(bits).view(np.float32))
    return found


def _bits(numbers: "torch.Tensor") -> Any:
    return numbers.numpy().view(np.int32)


def _count(
    pieces: "Callable[[], Iterator[Iterable[torch.Tensor]]]", ranks: Sequence[Sequence[int]]
) -> list[Any]:
    counts = [np.zeros(_NUM_BUCKETS if wanted else 0, np.uint32) for wanted in ranks]
    for piece in pieces():
        for count, wanted, numbers in zip(counts, ranks, piece, strict=True):
            if wanted:
                _add(count, _bits(numbers) >> _LOW_BITS)
    return counts


def _count_lower(
    pieces: "Callable[[], Iterator[Iterable[torch.Tensor]]]",
    buckets: Sequence[Mapping[int, tuple[int, int]]],
) -> list[dict[int, Any]]:
    counts = [
        {bucket: np.zeros(_LOW_MASK + 1, np.uint32) for bucket, _ in places.values()}
        for places in buckets
    ]
    for piece in pieces():
        for of_bucket, numbers in zip(counts, piece, strict=True):
            bits: Any = _bits(numbers) if of_bucket else None
            for bucket, count in of_bucket.items():
                inside = bits[(bits >> _LOW_BITS) == bucket]
                _add(count, inside & _LOW_MASK)
    return counts


def _add(count: NDArray[np.uint32], values: NDArray[np.int32]) -> None:
    found = np.bincount(values, minlength=len(count))
    np.add(count, found, out=count, casting="unsafe")
