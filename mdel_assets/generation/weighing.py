"""How an ensemble weighs its experts before each token, as `ensemble_report` does.

The arithmetic is `evaluation/ensemble.py`'s; here it goes on one token after the other.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from mdel_assets.evaluation.ensemble import Array, keep_best, reading_places

# Shapes in names: E experts, T tokens.


class Weighing(Protocol):
    """The weights of E experts along one text.

    ``needs_likelihoods``: the weights depend on what every expert thought of the tokens before.
    """

    needs_likelihoods: bool

    def log_weights(self) -> Array:
        """Return (E,) log-weights of the next token; minus infinity for an expert left out."""

    def read(self, tokens: Sequence[int], log_p_ET: Array | None) -> None:
        """Go past ``tokens``; ``log_p_ET`` is what the experts gave them, where that is needed."""


class FixedWeights:
    """The same weights for every token."""

    needs_likelihoods = False

    def __init__(self, log_weights_E: Array) -> None:
        self._log_weights_E = log_weights_E

    @classmethod
    def uniform(cls, num_experts: int) -> "FixedWeights":
        """Return equal weights; of one expert, all of it."""
        return cls(np.full(num_experts, -np.log(num_experts)))

    @classmethod
    def one(cls, expert: int, num_experts: int) -> "FixedWeights":
        """Return all of the weight on one expert."""
        return cls(np.where(np.arange(num_experts) == expert, 0.0, -np.inf))

    def log_weights(self) -> Array:
        """Return the weights."""
        return self._log_weights_E

    def read(self, tokens: Sequence[int], log_p_ET: Array | None) -> None:
        """Nothing of it matters."""


class PosteriorWeights:
    """Bayes over the tokens before, of which the ``num_kept`` heaviest are kept (None: all)."""

    needs_likelihoods = True

    def __init__(self, log_prior_E: Array, *, num_kept: int | None) -> None:
        self._joint_E = log_prior_E.astype(np.float64)
        self._num_kept = num_kept

    def log_weights(self) -> Array:
        """Return the posterior."""
        total = np.logaddexp.reduce(self._joint_E)
        return _kept(self._joint_E - total, self._num_kept)

    def read(self, tokens: Sequence[int], log_p_ET: Array | None) -> None:
        """Take what the experts gave the tokens into the posterior."""
        assert log_p_ET is not None
        self._joint_E = self._joint_E + log_p_ET.sum(axis=1)


class RoutedWeights:
    """What a router makes of the text before, read after 8, 16, 32, ... tokens.

    ``route`` gives (E,) log-weights for the text of some tokens.
    """

    needs_likelihoods = False

    def __init__(
        self,
        route: Callable[[Sequence[int]], Array],
        *,
        num_experts: int,
        num_kept: int | None,
    ) -> None:
        self._route = route
        self._num_kept = num_kept
        self._tokens: list[int] = []
        self._place = 0
        self._log_weights_E = FixedWeights.uniform(num_experts).log_weights()

    def log_weights(self) -> Array:
        """Return the weights by the last reading; equal ones before the first."""
        places = reading_places(len(self._tokens) + 1)
        if places and places[-1] != self._place:
            self._place = places[-1]
            self._log_weights_E = self._route(self._tokens[: self._place])
        return _kept(self._log_weights_E, self._num_kept)

    def read(self, tokens: Sequence[int], log_p_ET: Array | None) -> None:
        """Remember the tokens."""
        self._tokens += tokens


def _kept(log_weights_E: Array, num_kept: int | None) -> Array:
    if num_kept is None:
        return log_weights_E
    return keep_best(log_weights_E[:, None], num_kept)[:, 0]
