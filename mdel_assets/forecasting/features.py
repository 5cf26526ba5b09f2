"""What the probes of an experiment measured, and the features that a forecast is computed from.

All losses are nats per token on packed blocks of `validation_domain`. A percentage is by how much a
loss is lower than the seed's on the same domain, in percent of the seed's: its fall.

- Own divergence: the fall of each probe on its own domain, the mean over probes.
- Other divergence: the fall of each probe on every other domain, the mean over pairs; less than
  zero where probes forget.
- Cosine: between the task vectors (probe minus seed, all tensors as one vector) of two probes, the
  mean over pairs.
- Length: of a task vector over the length of the seed's weights, the mean over probes.
- Line, half and whole: the fall of the model that lies halfway from the seed to the probes' mean,
  and of the mean itself, the mean over domains.
- Tokens per weight: tokens that all experts together will read, for each weight of the model.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Probes:
    """What was measured, by domain.

    ``losses`` are by model (``seed``, a probe's domain, ``half``, ``whole``), then by the domain of
    the text. ``cosines`` are by the domains of two probes. ``num_tokens`` were read by all probes
    together, ``num_expert_tokens`` will be by all experts.
    """

    num_steps: int
    num_tokens: int
    num_expert_tokens: int
    num_weights: int
    seed_losses: Mapping[str, float]
    probe_losses: Mapping[str, Mapping[str, float]]
    half_losses: Mapping[str, float]
    whole_losses: Mapping[str, float]
    lengths: Mapping[str, float]
    cosines: Mapping[str, Mapping[str, float]]

    @property
    def cost(self) -> float:
        """The probes' tokens as a share of those of the training that they decide on."""
        return self.num_tokens / self.num_expert_tokens

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> Self:
        """Return what the details of a record hold."""
        return cls(**{field.name: details[field.name] for field in dataclasses.fields(cls)})

    def features(self) -> dict[str, float]:
        """Return the figures of the module's docstring, by name."""
        domains = [domain for domain in self.probe_losses if domain in self.seed_losses]
        pairs = [
            (probe, text)
            for probe, text in itertools.product(self.probe_losses, self.seed_losses)
            if probe != text
        ]
        own = [self._fall(self.probe_losses[domain], domain) for domain in domains]
        other = [self._fall(self.probe_losses[probe], text) for probe, text in pairs]
        cosines = [
            self.cosines[one][two] for one, two in itertools.combinations(self.probe_losses, 2)
        ]
        return {
            "own_divergence": float(np.mean(own)),
            "other_divergence": float(np.mean(other)),
            "cosine": float(np.mean(cosines)),
            "length": float(np.mean(list(self.lengths.values()))),
            "line_half": self._mean_fall(self.half_losses),
            "line_whole": self._mean_fall(self.whole_losses),
            "log_tokens_per_weight": math.log(self.num_expert_tokens / self.num_weights),
            "log_num_domains": math.log(len(self.probe_losses)),
        }

    def _fall(self, losses: Mapping[str, float], text: str) -> float:
        return 100 * (1 - losses[text] / self.seed_losses[text])

    def _mean_fall(self, losses: Mapping[str, float]) -> float:
        return float(np.mean([self._fall(losses, text) for text in self.seed_losses]))
