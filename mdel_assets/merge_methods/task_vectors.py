"""Task vectors, what an expert changed in its ancestor: how a family of methods adds them up.

Each method of the family thins task vectors in its own way, scales them, and sums them with or
without an election of signs.

Shapes: E elements of a piece, M models.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def add_task_vectors(
    base_E: "torch.Tensor",
    deltas: "Sequence[torch.Tensor]",
    *,
    weights: Sequence[float],
    elects_signs: bool,
    normalize: bool,
    scale: float,
) -> "torch.Tensor":
    """Return ``base_E`` plus ``scale`` times the weighted sum of ``deltas``, which are used up.

    With ``elects_signs`` each element's sign is that of the weighted sum, and only deltas of that
    sign count (a sum of zero elects plus). ``normalize`` divides by the sum of the weights that
    count; where none does, or they cancel, the sum stays.
    """
    import torch

    weights_M = torch.tensor(weights, dtype=torch.float32)
    for delta, weight in zip(deltas, weights_M, strict=True):
        delta.mul_(weight)
    total = torch.zeros_like(base_E)
    for delta in deltas:
        total += delta
    if elects_signs:
        is_plus = total >= 0
        plus, minus, of_plus, of_minus = (torch.zeros_like(base_E) for _ in range(4))
        # Both signs are summed, by operations that have no branch, and one is chosen at the end.
        for delta, weight in zip(deltas, weights_M, strict=True):
            plus += delta.clamp(min=0)
            minus += delta.clamp(max=0)
            sign = delta.sign_()
            of_plus += sign.clamp(min=0).mul_(weight)
            of_minus += sign.clamp_(max=0).mul_(-weight)
        total = torch.where(is_plus, plus, minus)
        divisor = torch.where(is_plus, of_plus, of_minus)
        divisor.masked_fill_(divisor == 0, 1)
    else:
        divisor = weights_M.sum()
        divisor[divisor.abs() < 1e-8] = 1
    if normalize:
        total /= divisor
    if scale != 1:
        total *= scale
    return total.add_(base_E)
