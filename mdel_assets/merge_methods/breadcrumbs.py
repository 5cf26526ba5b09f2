"""Model Breadcrumbs: task vectors without their largest and without their smallest numbers.

Paper: Davari and Belilovsky 2023, "Model breadcrumbs: scaling multi-task model merging with sparse
masks" (arXiv 2312.06795).

Steps: in each tensor of each task vector drop the share ``gamma`` of the largest numbers, then the
smallest until the share ``density`` is left; sum with weights. Limits: if density and gamma leave
no room, fewer outliers are dropped; numbers equal to a bound are kept.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mdel_assets.merge_methods.method import Parameter, Pieces, TensorSettings
from mdel_assets.merge_methods.order_statistics import nth_smallest
from mdel_assets.merge_methods.thinning import ThinningRule, thinning_method

if TYPE_CHECKING:
    import torch

Bounds = tuple[float, float]


def keep_between(delta: "torch.Tensor", *, bounds: Bounds) -> "torch.Tensor":
    """Return ``delta`` with zeros where its absolute value is out of ``bounds``."""
    magnitude = delta.abs()
    return delta * ((magnitude >= bounds[0]) & (magnitude <= bounds[1]))


def bound_ranks(size: int, *, density: float, gamma: float) -> tuple[int, int] | None:
    """Return the ranks (0 is the smallest) of the first and last number that is kept.

    None where nothing is.
    """
    num_kept = int(density * size)
    num_below = max(0, size - num_kept - int(gamma * size))
    return (num_below, num_below + num_kept - 1) if num_kept else None


def _look(pieces: Pieces, settings: TensorSettings) -> list[Bounds]:
    size = math.prod(settings.shape)
    shares = zip(settings.of_models["density"], settings.of_models["gamma"], strict=True)
    wanted = [
        (0, size - 1) if density >= 1.0 else bound_ranks(size, density=density, gamma=gamma)
        for density, gamma in shares
    ]

    def magnitudes() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield [delta.abs_() for delta in piece.task_vectors()]

    ranks: Sequence[Sequence[int]] = [list(pair) if pair else [] for pair in wanted]
    found = nth_smallest(magnitudes, ranks)
    return [
        (of_rank[pair[0]], of_rank[pair[1]]) if pair else (math.inf, -math.inf)
        for of_rank, pair in zip(found, wanted, strict=True)
    ]


RULE = ThinningRule(
    thin=lambda delta, model, _first, _settings, seen: keep_between(delta, bounds=seen[model]),
    look=_look,
)
METHOD = thinning_method(
    RULE,
    elects_signs=False,
    normalize=False,
    rescale=False,
    parameters={"gamma": Parameter(0.01, per_model=True, low=0.0, high=1.0)},
)
