"""Linear merge: the weighted mean of models, also called a model soup.

Paper: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time" (arXiv 2203.05482).

Steps: sum each model's tensor times its weight, in the recipe's order and in fp32; with
``normalize`` divide by the sum of the weights. Limits: the models must share their shapes, and in
practice an ancestor; far apart, their mean is worse than any of them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.merge_methods.method import (
    WEIGHT,
    MergeMethod,
    Parameter,
    Piece,
    TensorSettings,
)

if TYPE_CHECKING:
    import torch


def linear(
    tensors: "Sequence[torch.Tensor]", *, weights: Sequence[float], normalize: bool
) -> "torch.Tensor":
    """Return the weighted sum of equal-shaped ``tensors`` in fp32, or their weighted mean.

    Raises:
        MergeError: the weights of a mean sum to zero.

    """
    import torch

    if normalize and math.isclose(sum(weights), 0.0, abs_tol=1e-12):
        raise MergeError(
            f"The weights {list(weights)} sum to zero and cannot be normalized. Change them, or "
            f"set normalize: false."
        )
    total: torch.Tensor | None = None
    for tensor, weight in zip(tensors, torch.tensor(weights, dtype=torch.float32), strict=True):
        if total is None:
            total = torch.zeros_like(tensor, dtype=torch.float32)
        total.addcmul_(tensor.to(torch.float32), weight)
    assert total is not None
    return total.div_(torch.tensor(weights, dtype=torch.float32).sum()) if normalize else total


def _merge(piece: Piece, settings: TensorSettings, _: Any) -> "torch.Tensor":
    normalize = settings.shared["normalize"]
    return linear(piece.tensors, weights=settings.weights, normalize=normalize)


METHOD = MergeMethod(
    merge=_merge,
    parameters={"weight": WEIGHT, "normalize": Parameter(default=True)},
    base="refused",
    keeps_equal=lambda settings: settings.shared["normalize"] or sum(settings.weights) == 1.0,
    spreads_non_finite=True,
    reads_one_by_one=True,
)
