"""DARE's rule, which `dare_linear` and `dare_ties` share: drop numbers of a task vector at random.

Paper: Yu et al. 2023, "Language models are super Mario: absorbing abilities from homologous models
as a free lunch" (arXiv 2311.03099).

Steps: keep each number with probability ``density``; multiply what is kept so that the sum of
absolute values stays (``mdel.rescale: l1``, as mergekit does) or by 1 / density (``density``, as
in the paper). Which numbers are kept depends only on the seed, the model's name and the tensor's
name. Limits: needs small task vectors; with large ones low densities hurt.
"""

from typing import TYPE_CHECKING, Any

from mdel_assets.merge_methods.method import TensorSettings
from mdel_assets.merge_methods.random_numbers import NUM_BITS, random_integers
from mdel_assets.merge_methods.thinning import ThinningRule

if TYPE_CHECKING:
    import torch


def keep_at_random(
    delta: "torch.Tensor", *, density: float, first: int, seed: int, model: str, tensor: str
) -> "torch.Tensor":
    """Return ``delta``, whose first number is the tensor's ``first``, with the others zero."""
    import torch

    if density >= 1.0:
        return delta
    numbers = random_integers(first, delta.numel(), seed=seed, model=model, tensor=tensor)
    return delta * torch.from_numpy(numbers < round(density * 2**NUM_BITS))


def _thin(
    delta: "torch.Tensor", model: int, first: int, settings: TensorSettings, _: Any
) -> "torch.Tensor":
    return keep_at_random(
        delta,
        density=settings.of_models["density"][model],
        first=first,
        seed=settings.seed,
        model=settings.models[model],
        tensor=settings.name,
    )


RULE = ThinningRule(thin=_thin)
