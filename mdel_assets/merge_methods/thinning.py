"""Thinned task vectors: what TIES, DARE, DELLA and Breadcrumbs share.

Each drops numbers of every task vector by a rule of its own. What is left may be rescaled, and is
added up as `task_vectors` says, with or without an election of signs.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.merge_methods.block_sums import sums
from mdel_assets.merge_methods.method import (
    DENSITY,
    WEIGHT,
    MergeMethod,
    Parameter,
    Piece,
    Pieces,
    TensorSettings,
)
from mdel_assets.merge_methods.task_vectors import add_task_vectors

if TYPE_CHECKING:
    import torch

_ZERO = 1e-7


@dataclasses.dataclass(frozen=True)
class ThinningRule:
    """Which numbers of a task vector are kept.

    ``thin`` returns a piece of a task vector with dropped numbers zero, given the model's place in
    the settings, the piece's first element, and what ``look`` found on the whole tensor.
    """

    thin: "Callable[[torch.Tensor, int, int, TensorSettings, Any], torch.Tensor]"
    look: Callable[[Pieces, TensorSettings], Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Measured:
    seen: Any
    factors: Sequence[float] | None


def thinning_method(
    rule: ThinningRule,
    *,
    elects_signs: bool,
    normalize: bool,
    rescale: bool,
    parameters: Mapping[str, Parameter] | None = None,
    needs_rows: Callable[[TensorSettings], bool] | None = None,
) -> MergeMethod:
    """Return the method that thins by ``rule``; ``normalize`` and ``rescale`` are its defaults."""

    def measure(pieces: Pieces, settings: TensorSettings) -> _Measured:
        seen = rule.look(pieces, settings) if rule.look else None
        factors = _factors(rule, seen, pieces, settings) if settings.shared["rescale"] else None
        return _Measured(seen, factors)

    def merge(piece: Piece, settings: TensorSettings, measured: _Measured) -> "torch.Tensor":
        deltas = _thinned(rule, measured.seen, piece, settings)
        for delta, factor in zip(deltas, measured.factors or (), strict=False):
            delta.mul_(factor)
        return add_task_vectors(
            piece.base,
            deltas,
            weights=settings.weights,
            elects_signs=elects_signs,
            normalize=settings.shared["normalize"],
            scale=settings.shared["lambda"],
        )

    return MergeMethod(
        merge=merge,
        measure=measure,
        parameters={
            "weight": WEIGHT,
            "density": DENSITY,
            **(parameters or {}),
            "normalize": Parameter(default=normalize),
            "rescale": Parameter(default=rescale),
            "lambda": Parameter(1.0),
        },
        needs_rows=needs_rows,
    )


def _thinned(
    rule: ThinningRule, seen: Any, piece: Piece, settings: TensorSettings
) -> "list[torch.Tensor]":
    return [
        rule.thin(tensor - piece.base, index, piece.first, settings, seen)
        for index, tensor in enumerate(piece.tensors)
    ]


def _factors(
    rule: ThinningRule, seen: Any, pieces: Pieces, settings: TensorSettings
) -> Sequence[float]:
    """Return what each thinned task vector is multiplied by.

    ``l1`` restores the sum of absolute values, ``density`` the expected value.
    """
    densities = settings.of_models["density"]
    if settings.rescale == "density":
        return [1.0 / density if density else 1.0 for density in densities]

    def sizes() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            before = piece.task_vectors()
            after = [
                rule.thin(delta.clone(), index, piece.first, settings, seen).abs_()
                for index, delta in enumerate(before)
            ]
            yield [*(delta.abs_() for delta in before), *after]

    found = sums(sizes)
    before, after = found[: len(densities)], found[len(densities) :]
    return [
        float(whole / kept) if min(whole, kept) >= _ZERO else 1.0
        for whole, kept in zip(before, after, strict=True)
    ]
