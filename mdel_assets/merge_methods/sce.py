"""SCE: select the numbers that vary most between models, weighted by how much they changed.

Paper: Wan et al. 2024, "FuseChat: knowledge fusion of chat models" (arXiv 2408.07990).

Steps: select the share ``select_topk`` of a tensor's elements whose task vectors have the highest
variance over the models; calculate each model's weight from the mean square of what is selected;
erase numbers whose sign is not that of the sum; add the weighted mean of the rest to the base.
Limits: elements with no variance at all are not counted; those at the threshold are all selected.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdel_assets.merge_methods.block_sums import sums
from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, Pieces, TensorSettings
from mdel_assets.merge_methods.order_statistics import nth_smallest

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class _Selection:
    """Elements of at least ``threshold`` in variance count; the models' ``weights``."""

    threshold: float
    weights: tuple[float, ...]


def variance(deltas: "list[torch.Tensor]") -> "torch.Tensor":
    """Return each element's variance over the models."""
    import torch

    return torch.var(torch.stack(deltas), dim=0, unbiased=False)


def _selected(deltas: "list[torch.Tensor]", threshold: float) -> "list[torch.Tensor]":
    if threshold <= 0.0:
        return deltas
    is_selected = variance(deltas) >= threshold
    return [delta * is_selected for delta in deltas]


def _measure(pieces: Pieces, settings: TensorSettings) -> _Selection:
    threshold = _threshold(pieces, settings)

    def squares() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield [delta.square() for delta in _selected(piece.task_vectors(), threshold)]

    means = sums(squares) / max(1, math.prod(settings.shape))
    total = float(means.sum())
    count = len(settings.models)
    weights = [1.0 / count] * count if abs(total) < 1e-6 else [float(m) / total for m in means]
    return _Selection(threshold, tuple(weights))


def _threshold(pieces: Pieces, settings: TensorSettings) -> float:
    share = settings.shared["select_topk"]
    if share >= 1.0:
        return 0.0

    def variances() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield [variance(piece.task_vectors())]

    size = math.prod(settings.shape)
    num_varying = sum(int((piece[0] > 0).sum()) for piece in variances())
    num_selected = int(num_varying * share)
    if not num_selected:
        return math.inf
    rank = size - num_selected
    return nth_smallest(variances, [[rank]])[0][rank]


def _merge(piece: Piece, _: TensorSettings, selection: _Selection) -> "torch.Tensor":
    import torch

    deltas = _selected(piece.task_vectors(), selection.threshold)
    weights_M = torch.tensor(selection.weights, dtype=torch.float32)
    total = torch.zeros_like(piece.base)
    for delta in deltas:
        total += delta
    is_plus = total >= 0
    total, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for delta, weight in zip(deltas, weights_M, strict=True):
        own_weight = torch.where(is_plus, delta > 0, delta < 0) * weight
        total += delta * own_weight
        divisor += own_weight
    return piece.base + total / divisor.clamp_(min=1e-6)


METHOD = MergeMethod(
    merge=_merge,
    measure=_measure,
    parameters={"select_topk": Parameter(1.0, low=0.0, high=1.0)},
)
