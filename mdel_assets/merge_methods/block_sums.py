"""Sums over a whole tensor, in fp64 and in fixed blocks, so that they do not depend on its pieces.

Shapes: M vectors side by side, B blocks of K elements.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 10
_BLOCKS_AT_ONCE = 8
Vectors = Callable[[], "Iterator[Sequence[torch.Tensor]]"]


def sums(vectors: Vectors) -> NDArray[np.float64]:
    """Return the (M,) sums of vectors that come in flat pieces, side by side."""
    total: Any = None
    for blocks_BMK in _blocks(vectors):
        total = _add_in_order(total, blocks_BMK.sum(axis=2))
    return np.asarray(total)


def inner_products(vectors: Vectors) -> NDArray[np.float64]:
    """Return the (M, M) inner products of vectors that come in flat pieces, side by side."""
    total: Any = None
    for blocks_BMK in _blocks(vectors):
        total = _add_in_order(total, blocks_BMK @ blocks_BMK.transpose(0, 2, 1))
    return np.asarray(total)


def _add_in_order(total: Any, parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the parts to ``total`` one after the other: numpy's own sum would pair them up."""
    if total is not None:
        parts = np.concatenate([total[None], parts])
    return np.asarray(np.cumsum(parts, axis=0)[-1])


def _blocks(vectors: Vectors) -> Iterator[NDArray[np.float64]]:
    """Yield (B, M, K) blocks; the last is filled up with zeros."""
    rest: list[NDArray[np.float32]] | None = None
    for piece in vectors():
        arrays = [tensor.numpy() for tensor in piece]
        if rest is not None and len(rest[0]):
            arrays = [np.concatenate(pair) for pair in zip(rest, arrays, strict=True)]
        whole = len(arrays[0]) // _BLOCK * _BLOCK
        step = _BLOCK * _BLOCKS_AT_ONCE
        for first in range(0, whole, step):
            yield _as_blocks([array[first : min(first + step, whole)] for array in arrays])
        rest = [array[whole:].copy() for array in arrays]
    if rest is not None and len(rest[0]):
        yield _as_blocks([np.pad(array, (0, _BLOCK - len(array))) for array in rest])


def _as_blocks(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    stacked = np.stack(arrays).astype(np.float64)
    return np.ascontiguousarray(stacked.reshape(len(arrays), -1, _BLOCK).transpose(1, 0, 2))
