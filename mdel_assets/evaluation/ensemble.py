"""Ensembles of experts from stored log-probabilities: arithmetic, no forward pass.

An ensemble gives each token the weighted average of its experts' probabilities. A token's weights
depend only on the tokens before it. Branch-Train-Merge weights experts by how well they predicted
the prefix (Bayes), c-BTM by the topic of the prefix (a router, see `router.py`).
Sources: Li et al. 2022, "Branch-Train-Merge"; Gururangan et al. 2023, "Scaling Expert Language
Models with Unsupervised Domain Discovery".
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Shapes in names: E experts, T tokens of a document, D documents, R readings of a prefix.
_FIRST_READING = 8
Array = NDArray[np.float64]


def log_posterior(log_p_ET: Array, log_prior_E: Array) -> Array:
    """Return (E, T) log-weights of experts before each token: Bayes over the tokens before it."""
    joint_ET = np.zeros_like(log_p_ET)
    np.cumsum(log_p_ET[:, :-1], axis=1, out=joint_ET[:, 1:])
    return _normalized(joint_ET + log_prior_E[:, None])


def keep_best(log_weights_ET: Array, k: int) -> Array:
    """Return the weights with only the ``k`` largest of each token, renormalised to one.

    Experts that tie with the k-th are kept, so that no expert is favoured before anything is known.
    """
    num_experts = len(log_weights_ET)
    if k >= num_experts:
        return log_weights_ET
    kth_T = np.partition(log_weights_ET, num_experts - k, axis=0)[num_experts - k]
    return _normalized(np.where(log_weights_ET >= kth_T - 1e-12, log_weights_ET, -np.inf))


def mix(log_p_ET: Array, log_weights_ET: Array) -> Array:
    """Return the (T,) log-probabilities of the weighted mixture of experts."""
    return _log_sum_exp(log_p_ET + log_weights_ET)


def moving_average_prior(nll_nats_DE: Array, *, decay: float) -> Array:
    """Return the (E,) log-prior after a sequence of documents.

    It starts uniform; every document moves it towards its own posterior over experts by
    ``1 - decay``.
    """
    num_experts = nll_nats_DE.shape[1]
    prior_E = np.full(num_experts, 1.0 / num_experts)
    for posterior_E in np.exp(_normalized(-nll_nats_DE.T)).T:
        prior_E = decay * prior_E + (1.0 - decay) * posterior_E
    with np.errstate(divide="ignore"):
        log_prior_E: Array = np.log(prior_E)
    return log_prior_E


def reading_places(num_tokens: int) -> list[int]:
    """Return after how many tokens a router reads the prefix: 8, 16, 32, ... below the end.

    Because the places double, the router reads less than twice the document's text in total.
    """
    places = []
    place = _FIRST_READING
    while place < num_tokens:
        places.append(place)
        place *= 2
    return places


def spread_readings(log_weights_RE: Array, num_tokens: int) -> Array:
    """Return (E, T) weights: uniform before the first reading, then each until the next."""
    num_experts = log_weights_RE.shape[1]
    places = [0, *reading_places(num_tokens), num_tokens]
    uniform_E = np.full((1, num_experts), -np.log(num_experts))
    found_ET: Array = np.repeat(
        np.concatenate([uniform_E, log_weights_RE]), np.diff(places), axis=0
    ).T
    return found_ET


def prefixes(text: str, token_starts: Sequence[int]) -> list[str]:
    """Return the prefixes of ``text`` that a router reads: all characters before each token.

    ``token_starts`` are the tokens' first characters.
    """
    return [text[: token_starts[place]] for place in reading_places(len(token_starts))]


def _normalized(log_weights_E: Array) -> Array:
    """Return log-weights that sum to one over the first axis."""
    normalized: Array = log_weights_E - _log_sum_exp(log_weights_E)
    return normalized


def _log_sum_exp(values_E: Array) -> Array:
    highest: Array = values_E.max(axis=0)
    total: Array = highest + np.log(np.exp(values_E - highest).sum(axis=0))
    return total
