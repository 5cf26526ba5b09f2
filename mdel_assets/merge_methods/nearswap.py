"""NearSwap: the base, pulled towards another model where the two are close to each other.

Source: the card of alchemonaut/QuartetAnemoi-70B-t0.0001.

Steps: each number goes min(1, t / |difference|) of the way from the base to the other model.
Limits: two models; differences below 1e-6 count as 1e-6.
"""

from typing import TYPE_CHECKING, Any

from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, TensorSettings

if TYPE_CHECKING:
    import torch


def nearswap(base: "torch.Tensor", other: "torch.Tensor", *, t: float) -> "torch.Tensor":
    """Return ``base`` pulled towards ``other``."""
    share = (t / (base - other).abs_().clamp_(min=1e-6)).clamp_(min=0, max=1)
    return share * other + (1 - share) * base


def _merge(piece: Piece, settings: TensorSettings, _: Any) -> "torch.Tensor":
    return nearswap(piece.base, piece.tensors[0], t=settings.shared["t"])


METHOD = MergeMethod(merge=_merge, parameters={"t": Parameter(None, low=0.0)}, max_models=1)
