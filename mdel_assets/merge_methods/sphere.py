"""Shared by methods on a sphere: combinations with coefficients from inner products.

Interpolations and means on a sphere, and Model Stock, are combinations of their inputs with
coefficients that depend only on lengths and angles. One pass finds the inner products, which give
the coefficients; a second pass combines.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdel_assets.merge_methods.block_sums import inner_products
from mdel_assets.merge_methods.method import Piece, Pieces

if TYPE_CHECKING:
    import torch


def gram_matrix(pieces: Pieces) -> NDArray[np.float64]:
    """Return the (M, M) inner products of the models, or of their task vectors with a base."""

    def vectors() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield own_vectors(piece)

    return inner_products(vectors)


def own_vectors(piece: Piece) -> "list[torch.Tensor]":
    """Return the models' task vectors if there is a base, else the models themselves."""
    return list(piece.tensors) if piece.base_E is None else piece.task_vectors()


def combine(
    piece: Piece, vectors: "Sequence[torch.Tensor]", coefficients: Sequence[float]
) -> "torch.Tensor":
    """Return the base, if any, plus the sum of ``vectors`` times ``coefficients``, in order."""
    import torch

    factors = torch.tensor(coefficients, dtype=torch.float32)
    total = vectors[0] * factors[0]
    for vector, factor in zip(vectors[1:], factors[1:], strict=True):
        total += vector * factor
    return total if piece.base_E is None else total.add_(piece.base_E)


def cosine(gram: NDArray[np.float64], first: int, second: int) -> float:
    """Return the cosine between two vectors; 0 where one of them is zero."""
    product = math.sqrt(gram[first, first] * gram[second, second])
    return float(np.clip(gram[first, second] / product, -1.0, 1.0)) if product else 0.0


def arc_coefficients(cos: float, *, t: float, is_straight: bool) -> tuple[float, float]:
    """Return the weights of two vectors at ``t`` on the arc between them, or on the line."""
    if is_straight:
        return 1.0 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
