"""Multi-SLERP: the weighted mean direction of models on a sphere, with their mean length.

Source: mergekit's method of this name. It goes on to project the models onto the tangent plane at
that mean and to interpolate there; with the same weights that step is zero, and is left out here.

Steps: scale each model (or, with a base, each task vector) to length one; take the weighted mean,
scale it to length one, and to the weighted mean of the models' lengths. Limits: the weighted mean
must not be zero. A single model is returned as it is.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import MergeError
from mdel_assets.merge_methods.method import (
    WEIGHT,
    MergeMethod,
    Parameter,
    Piece,
    Pieces,
    TensorSettings,
)
from mdel_assets.merge_methods.sphere import combine, gram_matrix, own_vectors

if TYPE_CHECKING:
    import torch

_ZERO = 1e-8


def multislerp_coefficients(
    gram_MM: NDArray[np.float64], *, weights: Sequence[float], normalize: bool
) -> list[float] | None:
    """Return the models' coefficients from their inner products; None where the mean is zero."""
    if len(weights) == 1:
        return [1.0]
    weights_M = np.asarray(weights)
    if normalize:
        weights_M = weights_M / weights_M.sum()
    lengths_M = np.sqrt(np.diag(gram_MM))
    of_units_M: NDArray[np.float64] = weights_M / (lengths_M + _ZERO)
    mean_length = math.sqrt(max(0.0, float(of_units_M @ gram_MM @ of_units_M)))
    if mean_length < _ZERO:
        return list(weights_M) if len(weights) == 2 else None
    return [float(c) for c in of_units_M / mean_length * (lengths_M @ weights_M)]


def _measure(pieces: Pieces, settings: TensorSettings) -> list[float]:
    normalize = settings.shared["normalize_weights"]
    if normalize and abs(sum(settings.weights)) < 1e-12:
        raise MergeError(
            f"The weights {list(settings.weights)} sum to zero and cannot be normalized. Change "
            f"them, or set normalize_weights: false."
        )
    found = multislerp_coefficients(
        gram_matrix(pieces), weights=settings.weights, normalize=normalize
    )
    if found is None:
        raise MergeError(
            f"multislerp: the models' weighted mean direction is zero in {settings.name}. Use "
            f"other weights, or another method."
        )
    return found


def _merge(piece: Piece, _: TensorSettings, coefficients: list[float]) -> "torch.Tensor":
    return combine(piece, own_vectors(piece), coefficients)


METHOD = MergeMethod(
    merge=_merge,
    measure=_measure,
    parameters={"weight": WEIGHT, "normalize_weights": Parameter(default=True)},
    base="optional",
    keeps_equal=lambda s: (
        len(s.models) < 2 or s.shared["normalize_weights"] or sum(s.weights) == 1.0
    ),
)
