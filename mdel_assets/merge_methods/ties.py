"""TIES: task vectors trimmed to their largest numbers, and summed where their signs agree.

Paper: Yadav et al. 2023, "TIES-merging: resolving interference when merging models"
(arXiv 2306.01708).

Steps: in each tensor of each task vector keep the share ``density`` of the largest numbers; for
each element elect the sign of the weighted sum; average (``normalize``) what has that sign.
Limits: trimming is per tensor, where the paper trims a whole model; numbers as large as the
smallest that is kept are all kept.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mdel_assets.merge_methods.method import Pieces, TensorSettings
from mdel_assets.merge_methods.order_statistics import nth_smallest
from mdel_assets.merge_methods.thinning import ThinningRule, thinning_method

if TYPE_CHECKING:
    import torch


def keep_largest(delta: "torch.Tensor", *, threshold: float) -> "torch.Tensor":
    """Return ``delta`` with numbers below ``threshold`` in absolute value set to zero."""
    import torch

    if threshold <= 0.0:
        return delta
    # Keeps what is larger than its bound: the bound is the number just below the threshold.
    below = torch.nextafter(torch.tensor(threshold, dtype=torch.float32), torch.tensor(0.0))
    return torch.nn.functional.hardshrink(delta, float(below))


def thresholds(pieces: Pieces, settings: TensorSettings) -> list[float]:
    """Return each model's smallest absolute value that is kept; 0 keeps all, infinity nothing."""
    size = math.prod(settings.shape)
    densities = settings.of_models["density"]
    ranks = [
        [size - max(1, int(density * size))] if 0.0 < density < 1.0 else [] for density in densities
    ]

    def magnitudes() -> "Iterator[list[torch.Tensor]]":
        for piece in pieces():
            yield [delta.abs_() for delta in piece.task_vectors()]

    found = nth_smallest(magnitudes, ranks) if any(ranks) else [{} for _ in ranks]
    return [
        of_rank[rank[0]] if rank else (0.0 if density >= 1.0 else math.inf)
        for of_rank, rank, density in zip(found, ranks, densities, strict=True)
    ]


RULE = ThinningRule(
    thin=lambda delta, model, _first, _settings, seen: keep_largest(delta, threshold=seen[model]),
    look=thresholds,
)
METHOD = thinning_method(RULE, elects_signs=True, normalize=True, rescale=False)
