"""The choice of the next token from its log-probabilities: temperature, nucleus, seed.

Source of top-p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import GenerationError

if TYPE_CHECKING:
    import torch

# Shapes in names: V vocabulary.


class Sampler:
    """Draws the tokens of one sequence; the same seed and probabilities give the same tokens.

    At ``temperature`` 0 the likeliest token is taken and nothing is drawn; else probabilities are
    raised to the power of 1 / temperature, and the draw is from the fewest of the likeliest tokens
    whose probabilities then sum to ``top_p`` or more.

    Raises:
        GenerationError: a setting out of its range.

    """

    def __init__(self, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise GenerationError(
                f"The temperature is {temperature}, expected 0 (the likeliest token) or more."
            )
        if not 0 < top_p <= 1:
            raise GenerationError(f"top-p is {top_p}, expected more than 0 and up to 1.")
        if seed < 0:
            raise GenerationError(f"The seed is {seed}, expected 0 or more.")
        self._temperature = temperature
        self._top_p = top_p
        self._draws = np.random.default_rng(seed)

    def choose(self, log_probabilities_V: "torch.Tensor") -> int:
        """Return the next token's id."""
        if self._temperature == 0:
            return int(log_probabilities_V.argmax())
        log_p_V = log_probabilities_V.cpu().numpy().astype(np.float64)
        scaled_V = (log_p_V - log_p_V.max()) / self._temperature
        return self._draw(np.exp(scaled_V))

    def _draw(self, shares_V: NDArray[np.float64]) -> int:
        """Return an index, drawn in proportion to ``shares_V`` within the nucleus.

        In the order of ids: two tokens that are about as likely then keep their places, whatever
        the last digits of their probabilities are.
        """
        if self._top_p < 1:
            shares_V = np.where(_nucleus(shares_V, self._top_p), shares_V, 0.0)
        sums_V = np.cumsum(shares_V)
        place = int(np.searchsorted(sums_V, self._draws.random() * sums_V[-1], side="right"))
        # A draw that rounding puts at the very end falls to the last token that can be drawn.
        return min(place, int(np.flatnonzero(shares_V)[-1]))


def _nucleus(shares_V: NDArray[np.float64], top_p: float) -> NDArray[np.bool_]:
    """Return which are in the smallest set of the largest that makes up ``top_p`` of the sum."""
    # Sorting values alone takes a fifth of the time that sorting places takes.
    falling_V = np.sort(shares_V)[::-1]
    sums_V = np.cumsum(falling_V)
    place = int(np.searchsorted(sums_V, top_p * sums_V[-1], side="left"))
    least = falling_V[place]
    kept_V: NDArray[np.bool_] = shares_V > least
    # Of those that tie for the last places, the first.
    tied = np.flatnonzero(shares_V == least)
    kept_V[tied[: place + 1 - int(kept_V.sum())]] = True
    return kept_V
