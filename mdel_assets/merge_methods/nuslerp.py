"""NuSLERP: slerp between two models, or between two task vectors where there is a base.

Source: mergekit's method of this name; the arc is that of Shoemake 1985.

Steps: turn the two weights into ``t``, the second's share (a half where they cancel). Take the
angle between the two as one long vector each, or with ``nuslerp_flatten: false`` between rows, and
go ``t`` of the arc. Limits: two models. Only exactly parallel or opposite ones are interpolated
linearly.
"""

from typing import TYPE_CHECKING

from mdel_assets.merge_methods.method import (
    WEIGHT,
    MergeMethod,
    Parameter,
    Piece,
    Pieces,
    TensorSettings,
)
from mdel_assets.merge_methods.sphere import (
    arc_coefficients,
    combine,
    cosine,
    gram_matrix,
    own_vectors,
)

if TYPE_CHECKING:
    import torch

_STRAIGHT = 1e-16


def second_share(weights: tuple[float, ...]) -> float:
    """Return the second weight's share of both."""
    total = sum(weights)
    return 0.5 if abs(total) < 1e-6 else weights[1] / total


def nuslerp_rows(start_RC: "torch.Tensor", end_RC: "torch.Tensor", *, t: float) -> "torch.Tensor":
    """Return the point at ``t`` on the arc between each two rows (R rows of C numbers)."""
    import torch

    a_RC, b_RC = start_RC.double(), end_RC.double()
    lengths_R1 = a_RC.norm(dim=1, keepdim=True) * b_RC.norm(dim=1, keepdim=True)
    dots_R1 = (a_RC * b_RC).sum(dim=1, keepdim=True)
    cos_R1 = torch.where(lengths_R1 > 0, dots_R1 / lengths_R1, 0.0).clamp(-1, 1)
    is_straight = 1 - cos_R1.square() <= _STRAIGHT
    angle_R1 = torch.acos(torch.where(is_straight, 0.0, cos_R1))
    of_start = torch.where(is_straight, 1 - t, torch.sin((1 - t) * angle_R1) / torch.sin(angle_R1))
    of_end = torch.where(is_straight, t, torch.sin(t * angle_R1) / torch.sin(angle_R1))
    return (of_start * a_RC + of_end * b_RC).float()


def _measure(pieces: Pieces, settings: TensorSettings) -> tuple[float, float]:
    if not settings.shared["nuslerp_flatten"]:
        return 0.0, 0.0
    cos = cosine(gram_matrix(pieces), 0, 1)
    t = second_share(settings.weights)
    return arc_coefficients(cos, t=t, is_straight=1 - cos**2 <= _STRAIGHT)


def _merge(
    piece: Piece, settings: TensorSettings, coefficients: tuple[float, float]
) -> "torch.Tensor":
    vectors = own_vectors(piece)
    if settings.shared["nuslerp_flatten"]:
        return combine(piece, vectors, coefficients)
    start, end = (vector.reshape(-1, settings.row_length) for vector in vectors)
    rows = nuslerp_rows(start, end, t=second_share(settings.weights)).reshape(-1)
    return rows if piece.base_E is None else rows + piece.base_E


METHOD = MergeMethod(
    merge=_merge,
    measure=_measure,
    parameters={"weight": WEIGHT, "nuslerp_flatten": Parameter(default=True)},
    base="optional",
    min_models=2,
    max_models=2,
    needs_rows=lambda settings: not settings.shared["nuslerp_flatten"],
)
