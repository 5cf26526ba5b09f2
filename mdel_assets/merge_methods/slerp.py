"""Slerp: the point at ``t`` on the arc between two models, the base at 0.

Paper: Shoemake 1985, "Animating rotation with quaternion curves".

Steps: take the angle between the two tensors, each as one long vector; weigh the base by
sin((1 - t) angle) / sin(angle), the other by sin(t angle) / sin(angle). Where they are within 1.8
degrees of parallel or opposite, interpolate linearly. Limits: two models; experts of one seed are
mostly that near to parallel, and then this is a linear merge.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdel_assets.merge_methods.block_sums import inner_products
from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, Pieces, TensorSettings
from mdel_assets.merge_methods.sphere import arc_coefficients, cosine

if TYPE_CHECKING:
    import torch

_NEARLY_PARALLEL = 0.9995


def slerp(start: "torch.Tensor", end: "torch.Tensor", *, cos: float, t: float) -> "torch.Tensor":
    """Return the point at ``t`` between two tensors whose cosine is ``cos``."""
    is_straight = abs(cos) > _NEARLY_PARALLEL
    of_start, of_end = arc_coefficients(cos, t=t, is_straight=is_straight)
    # Rounded once, at the end: in fp32 throughout it would be off by up to three units.
    return (start.double() * of_start).add_(end.double() * of_end).float()


def _measure(pieces: Pieces, _: TensorSettings) -> float:
    def vectors() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield [piece.base, piece.tensors[0]]

    return cosine(inner_products(vectors), 0, 1)


def _merge(piece: Piece, settings: TensorSettings, cos: float) -> "torch.Tensor":
    return slerp(piece.base, piece.tensors[0], cos=cos, t=settings.shared["t"])


METHOD = MergeMethod(
    merge=_merge, measure=_measure, parameters={"t": Parameter(None)}, max_models=1
)
