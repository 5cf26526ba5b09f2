"""Model Stock: the models' mean, pulled towards the base the more their task vectors disagree.

Paper: Jang et al. 2024, "Model Stock: all we need is just a few fine-tuned models"
(arXiv 2403.19522).

Steps: take the mean cosine between the task vectors of each two models; with n models go
t = n cos / (1 + (n - 1) cos) of the way from the base to their mean. With ``filter_wise`` that is
done for each row. Limits: at least two models besides the base; where 1 + (n - 1) cos is zero,
the base stays.
"""

from typing import TYPE_CHECKING

import numpy as np

from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, Pieces, TensorSettings
from mdel_assets.merge_methods.sphere import cosine, gram_matrix

if TYPE_CHECKING:
    import torch

_SINGULAR = 1e-6


def stock_ratio(cos: float, *, num_models: int) -> float:
    """Return how far to go from the base to the mean of models at a mean cosine of ``cos``."""
    divisor = 1 + (num_models - 1) * cos
    return 0.0 if abs(divisor) < _SINGULAR else num_models * cos / divisor


def _measure(pieces: Pieces, settings: TensorSettings) -> float | None:
    if settings.shared["filter_wise"]:
        return None
    gram = gram_matrix(pieces)
    count = len(settings.models)
    pairs = [cosine(gram, i, j) for i in range(count) for j in range(i + 1, count)]
    return stock_ratio(float(np.mean(pairs)), num_models=count)


def _merge(piece: Piece, settings: TensorSettings, ratio: float | None) -> "torch.Tensor":
    tensors = list(piece.tensors)
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total += tensor
    mean = total / len(tensors)
    if ratio is not None:
        return (mean * ratio).add_(piece.base * (1 - ratio))
    ratio_R1 = _row_ratios(piece, settings)
    shape = (-1, settings.row_length)
    rows = mean.reshape(shape) * ratio_R1 + piece.base.reshape(shape) * (1 - ratio_R1)
    return rows.reshape(-1)


def _row_ratios(piece: Piece, settings: TensorSettings) -> "torch.Tensor":
    """Return `stock_ratio` for each row, (R, 1)."""
    import torch

    vectors = [v.reshape(-1, settings.row_length).double() for v in piece.task_vectors()]
    ratios = []
    for row in zip(*vectors, strict=True):
        gram = torch.stack(row).numpy()
        gram = gram @ gram.T
        pairs = [cosine(gram, i, j) for i in range(len(row)) for j in range(i + 1, len(row))]
        ratios.append(stock_ratio(float(np.mean(pairs)), num_models=len(row)))
    return torch.tensor(ratios, dtype=torch.float32)[:, None]


METHOD = MergeMethod(
    merge=_merge,
    measure=_measure,
    parameters={"filter_wise": Parameter(default=False)},
    min_models=2,
    needs_rows=lambda settings: bool(settings.shared["filter_wise"]),
)
