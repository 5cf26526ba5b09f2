"""Task arithmetic: the base plus a weighted sum of task vectors.

Paper: Ilharco et al. 2022, "Editing models with task arithmetic" (arXiv 2212.04089).

Steps: take the base from each model, weight and sum the differences, times ``lambda``, add them
to the base. Limits: the sum of many task vectors overshoots; weights below one, or ``normalize``,
hold it back.
"""

from typing import TYPE_CHECKING, Any

from mdel_assets.merge_methods.method import (
    WEIGHT,
    MergeMethod,
    Parameter,
    Piece,
    TensorSettings,
)
from mdel_assets.merge_methods.task_vectors import add_task_vectors

if TYPE_CHECKING:
    import torch


def _merge(piece: Piece, settings: TensorSettings, _: Any) -> "torch.Tensor":
    return add_task_vectors(
        piece.base,
        piece.task_vectors(),
        weights=settings.weights,
        elects_signs=False,
        normalize=settings.shared["normalize"],
        scale=settings.shared["lambda"],
    )


METHOD = MergeMethod(
    merge=_merge,
    parameters={
        "weight": WEIGHT,
        "normalize": Parameter(default=False),
        "lambda": Parameter(1.0),
    },
    spreads_non_finite=True,
)
