"""Karcher mean: the point on the sphere with the least sum of squared arcs to all models.

Paper: Karcher 1977, "Riemannian center of mass and mollifier smoothing"; as a merge method,
arXiv 2603.04972.

Steps: scale each model to length one; start at their mean direction and move repeatedly along the
mean of the arcs to all models, until a step is below ``tol`` or after ``max_iter`` steps; scale to
the models' mean length. Limits: all models weigh the same; a zero tensor only shortens the result.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, Pieces, TensorSettings
from mdel_assets.merge_methods.sphere import combine, gram_matrix

if TYPE_CHECKING:
    import torch


def karcher_coefficients(gram_MM: NDArray[np.float64], *, max_iter: int, tol: float) -> list[float]:
    """Return the models' coefficients in their Karcher mean, from their inner products."""
    lengths_M = np.sqrt(np.diag(gram_MM))
    is_valid = lengths_M > tol
    if not is_valid.any():
        return [0.0] * len(lengths_M)
    scale_M = np.where(is_valid, 1.0 / np.where(is_valid, lengths_M, 1.0), 0.0)
    units_MM = gram_MM * np.outer(scale_M, scale_M)
    share_M = is_valid / is_valid.sum()

    def length(coefficients_M: NDArray[np.float64]) -> float:
        return float(np.sqrt(max(0.0, coefficients_M @ units_MM @ coefficients_M)))

    mean_M = share_M
    if length(mean_M) < tol:
        mean_M = np.eye(len(lengths_M))[int(np.argmax(is_valid))]
    mean_M = mean_M / length(mean_M)
    for _ in range(max_iter):
        step_M = np.zeros(len(lengths_M))
        for index in np.flatnonzero(is_valid):
            dot = float(np.clip(units_MM[index] @ mean_M, -1.0, 1.0))
            arc = float(np.arccos(dot))
            if arc >= tol:
                unit_M = np.eye(len(lengths_M))[index]
                step_M += share_M[index] * arc / np.sin(arc) * (unit_M - dot * mean_M)
        size = length(step_M)
        if size < tol:
            break
        mean_M = np.cos(size) * mean_M + np.sin(size) * step_M / size
        mean_M = mean_M / length(mean_M)
    return [float(c) for c in mean_M * scale_M * lengths_M.mean()]


def _measure(pieces: Pieces, settings: TensorSettings) -> list[float]:
    return karcher_coefficients(
        gram_matrix(pieces),
        max_iter=int(settings.shared["max_iter"]),
        tol=settings.shared["tol"],
    )


def _merge(piece: Piece, _: TensorSettings, coefficients: list[float]) -> "torch.Tensor":
    return combine(piece, list(piece.tensors), coefficients)


METHOD = MergeMethod(
    merge=_merge,
    measure=_measure,
    parameters={"max_iter": Parameter(10, low=0), "tol": Parameter(1e-5, low=0.0)},
    base="refused",
)
