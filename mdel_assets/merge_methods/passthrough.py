"""Passthrough: one model as it is, or times ``scale``.

With a filter list as ``scale`` chosen tensors are scaled and all others copied to the bit.
"""

from typing import TYPE_CHECKING, Any

from mdel_assets.merge_methods.method import MergeMethod, Parameter, Piece, TensorSettings

if TYPE_CHECKING:
    import torch


def _merge(piece: Piece, settings: TensorSettings, _: Any) -> "torch.Tensor":
    return piece.tensors[0] * settings.of_models["scale"][0]


METHOD = MergeMethod(
    merge=_merge,
    parameters={"scale": Parameter(1.0, per_model=True)},
    base="refused",
    max_models=1,
    keeps_equal=lambda settings: settings.of_models["scale"][0] == 1.0,
    spreads_non_finite=True,
    reads_one_by_one=True,
)
