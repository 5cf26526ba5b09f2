"""DELLA: task vectors thinned at random, large numbers kept more often, then elected and summed.

Paper: Deep et al. 2024, "DELLA-merging: reducing interference in model merging through
magnitude-based sampling" (arXiv 2406.11617).

Steps: rank the numbers of each row by absolute value; keep the smallest with probability density
minus ``epsilon``, the largest with density plus epsilon, those between in proportion to their rank;
rescale as `dare` does; elect signs and average as `ties` does. Draws depend on the seed, the
model's name and the tensor's name alone. Limits: density plus and minus epsilon must lie in 0 to 1.
"""

from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.merge_methods.method import Parameter, TensorSettings
from mdel_assets.merge_methods.random_numbers import NUM_BITS, random_integers
from mdel_assets.merge_methods.thinning import ThinningRule, thinning_method

if TYPE_CHECKING:
    import torch


def keep_probabilities(
    delta_RC: "torch.Tensor", *, density: float, epsilon: float
) -> "torch.Tensor":
    """Return the probability of each number of R rows of C numbers; equal ones rank by place."""
    import torch

    length = delta_RC.shape[1]
    order_RC = delta_RC.abs().argsort(dim=1, stable=True)
    ranks_RC = torch.empty_like(order_RC)
    ranks_RC.scatter_(1, order_RC, torch.arange(length).expand_as(order_RC).contiguous())
    share_RC = ranks_RC.float() / max(1, length - 1)
    return (density - epsilon) + share_RC * (2 * epsilon)


def _thin(
    delta: "torch.Tensor", model: int, first: int, settings: TensorSettings, _: Any
) -> "torch.Tensor":
    import torch

    density = settings.of_models["density"][model]
    epsilon = settings.of_models["epsilon"][model]
    if density >= 1.0:
        return delta
    if density <= 0.0:
        return delta.zero_()
    if not density - epsilon > 0.0 or not density + epsilon < 1.0:
        raise MergeError(
            f"della: density {density} plus and minus epsilon {epsilon} must lie between 0 and 1, "
            f"for {settings.models[model]}. Lower epsilon."
        )
    probabilities = keep_probabilities(
        delta.reshape(-1, settings.row_length), density=density, epsilon=epsilon
    )
    numbers = random_integers(
        first,
        delta.numel(),
        seed=settings.seed,
        model=settings.models[model],
        tensor=settings.name,
    )
    drawn = torch.from_numpy(numbers.astype("float32") / 2**NUM_BITS)
    return delta * (drawn < probabilities.reshape(-1))


METHOD = thinning_method(
    ThinningRule(thin=_thin),
    elects_signs=True,
    normalize=True,
    rescale=True,
    parameters={"epsilon": Parameter(0.15, per_model=True, low=0.0, high=1.0)},
    needs_rows=lambda _: True,
)
