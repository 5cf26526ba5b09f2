"""The sizes of a mixture of experts, from its recipe and the seed's configuration."""

import dataclasses

from mdel_assets.model_families.mixture_families import family_of_seed
from mdel_assets.training.model_sizes import Training
from mdel_assets.training.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class MixtureSizes:
    """The sizes of a mixture: what it has and does besides the seed.

    ``layers`` become mixtures. A token takes ``more_per_token`` operations more in a forward pass:
    in the feed-forwards of further experts, and in gates, which have ``num_gates`` parameters.
    """

    num_experts: int
    layers: tuple[int, ...]
    num_parameters: float
    num_gates: float
    more_per_token: float

    def gate_training(self) -> Training:
        """Return the training of the gates: gradients pass all layers after the first mixture."""
        count = int(self.num_gates)
        return Training(count, count, min(self.layers) + 1, frozenset())

    @property
    def more_per_trained_token(self) -> float:
        """The operations more of a token in a training of the gates.

        They are those of a forward pass, those backward to the inputs of all mixtures but the
        first, and those to the gates' own weights.
        """
        backward = (len(self.layers) - 1) / len(self.layers) * self.more_per_token
        return self.more_per_token + backward + 2.0 * self.num_gates


def mixture_sizes(sizes: Sizes, name: str) -> MixtureSizes:
    """Return the sizes of the mixture called ``name``.

    Raises:
        MergeError: the seed's family has no mixtures.
        TrainingError: the seed's configuration is not known.

    """
    recipe, model = sizes.experiment.mixtures[name], sizes.model
    family = family_of_seed(model.config.to_dict())
    named = recipe.named_domains(sizes.experiment.domain_keys)
    num_experts = sum(domain in sizes.domains for domain in named) + recipe.general_expert
    layers = tuple(range(model.num_layers))
    if family.can_stay_dense:
        trained = model.trained(sizes.experiment.training.trained_layers).names
        layers = tuple(layer for layer in layers if model.feed_forward_of(layer) & trained)
    feed_forward = model.num_mlp_parameters / model.num_layers
    gates = float(num_experts * model.hidden_size * len(layers))
    more = (recipe.experts_per_token - 1) * feed_forward * len(layers) + gates
    return MixtureSizes(
        num_experts=num_experts,
        layers=layers,
        num_parameters=model.num_parameters
        + (num_experts - 1) * feed_forward * len(layers)
        + gates,
        num_gates=gates,
        more_per_token=2.0 * more,
    )
