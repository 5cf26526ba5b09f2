"""The sizes of a model that is judged, whatever its family: what its prices are computed from."""

import dataclasses
from typing import Any

from mdel_assets.experiment.model_keys import Family
from mdel_assets.merging.mixture_sizes import mixture_sizes
from mdel_assets.training.model_sizes import ModelSizes
from mdel_assets.training.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class JudgedModel:
    """A model that is judged.

    ``num_shared`` of its layers, the first ones, are equal in other models, and run for all of them
    at once. A token takes ``more_per_token`` operations more than ``model`` says, and passes
    ``depth`` times as many layers. ``config`` is its configuration where it computes at another
    pace than the seed.
    """

    model: ModelSizes
    num_parameters: float
    tokens_per_byte: float
    num_shared: int = 0
    more_per_token: float = 0.0
    depth: float = 1.0
    config: Any = None

    def forward(self, num_tokens: float, *, length: int, num_together: int = 1) -> float:
        """Return the operations of a forward pass, one of ``num_together`` with shared layers."""
        shared = self.num_shared
        own = self.model.forward(num_tokens, length=length, first=shared)
        below = self.model.below(num_tokens, length=length, first=shared) / num_together
        layers = self.model.below(num_tokens, length=length, first=self.model.num_layers)
        more = (self.depth - 1.0) * layers + num_tokens * self.more_per_token
        return own + below + more


def judged_model(sizes: Sizes, key: str) -> JudgedModel:
    """Return the sizes of the model with this key among the models.

    Raises:
        TrainingError: its configuration is not known.
        MergeError: it is a mixture, and the seed's family has none.

    """
    name = key.partition("-")[2]
    if Family.REFERENCE.has(key):
        source = sizes.reference(name)
        model = source.model
        return JudgedModel(model, model.num_parameters, source.tokens_per_byte, config=model.config)
    model = sizes.model
    if Family.MIXTURE.has(key):
        mixture = mixture_sizes(sizes, name)
        return JudgedModel(
            model,
            mixture.num_parameters,
            sizes.tokens_per_byte,
            more_per_token=mixture.more_per_token,
        )
    if Family.MERGED.has(key) and (slices := sizes.experiment.merges[name].slices):
        count = sum(part.num_layers for part in slices)
        if count != model.num_layers:
            more = (count - model.num_layers) * model.trained((0,)).num_trained
            return JudgedModel(
                model,
                model.num_parameters + more,
                sizes.tokens_per_byte,
                depth=count / model.num_layers,
            )
    shared = model.trained(sizes.experiment.training.trained_layers).first
    return JudgedModel(model, model.num_parameters, sizes.tokens_per_byte, num_shared=shared)
