"""The search for a merge's weights: choose the next trial from all earlier ones.

First come the starting points: the seed, the uniform mean, and scaled sums of all task vectors.
Then the weights of the best trial are moved one by one, or in blocks if there are too many. The
remaining trials are at the minimum of a quadratic surrogate of all trials, within a trust region
that grows with success and shrinks with failure. The best trial is the answer, so it is never worse
than a starting point.

The next trial depends only on the earlier ones: a killed search resumes to the same result.

Shapes: G groups of layers, M models, N = G * M weights, group by group.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mdel_assets.errors import ScoringError
from mdel_assets.merging.surrogate import Array, fit_quadratic
from mdel_assets.merging.trials import Trial, TrialLog

_log = logging.getLogger(__name__)
SEED_START, MEAN_START = "seed", "uniform mean"
_SUM_SCALES = (0.3, 0.6, 1.0)
_LOWEST_WEIGHT, _HIGHEST_WEIGHT = -0.5, 1.5
# The first move of a weight; the factors for success and failure; and the limits of the search.
_STEP = 0.2
_GROWTH, _SHRINKAGE = 1.5, 0.5
_LARGEST_RADIUS, _SMALLEST_RADIUS = 0.5, 0.01
_SMALLEST_GAIN = 1e-6
# At most this share of the trials after the starting points moves weights one by one.
_SHARE_OF_STEPS = 2 / 3

Score = Callable[[Array], Mapping[str, float]]


def starting_points(num_models: int, *, num_groups: int = 1) -> dict[str, Array]:
    """Return the weights that are tried first, by name."""
    size = num_models * num_groups
    mean = 1 / num_models
    named = {SEED_START: 0.0, MEAN_START: mean}
    named |= {f"sum times {s:g}": s for s in _SUM_SCALES if not math.isclose(s, mean)}
    return {name: np.full(size, value) for name, value in named.items()}


def search_weights(
    score: Score, *, num_models: int, num_trials: int, log: TrialLog, num_groups: int = 1
) -> Trial:
    """Return the best of at most ``num_trials`` trials, including those in ``log``.

    ``score`` returns the bits per byte of each domain for N weights; their mean is minimised.

    Raises:
        ScoringError: no trial gave finite numbers.

    """
    started = time.monotonic()
    starts = starting_points(num_models, num_groups=num_groups)
    if len(log):
        _log.info("the search resumes after %d trials", len(log))
    num_before = len(log)
    while (following := next_trial(list(log), starts, num_trials=num_trials)) is not None:
        origin, weights_N = following
        trial = _tried(score, len(log), origin, weights_N)
        log.append(trial)
        best = best_trial(list(log))
        pace = (time.monotonic() - started) / (len(log) - num_before)
        _log.info(
            "trial %d of at most %d (%s): %.4f bits per byte, best %.4f; %.1f s a trial",
            *(len(log), num_trials, origin, trial.bits_per_byte, best.bits_per_byte, pace),
        )
    best = best_trial(list(log))
    if not math.isfinite(best.bits_per_byte):
        raise ScoringError(
            "No model of the search gives finite probabilities, not even the seed. Remake the seed "
            "model."
        )
    return best


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the fewest bits per byte, the first of equals."""
    return min(trials, key=lambda trial: (trial.bits_per_byte, trial.number))


def next_trial(
    trials: Sequence[Trial], starts: Mapping[str, Array], *, num_trials: int
) -> tuple[str, Array] | None:
    """Return origin and weights of the next trial; None if the search is over."""
    done = len(trials)
    if done < len(starts):
        return list(starts.items())[done]
    if done >= num_trials:
        return None
    best = best_trial(trials)
    center_N = np.array(best.weights)
    if not math.isfinite(best.bits_per_byte):
        return None
    num_steps = min(len(center_N), int((num_trials - len(starts)) * _SHARE_OF_STEPS))
    if (step := done - len(starts)) < num_steps:
        moved = center_N.copy()
        moved[np.array_split(np.arange(len(center_N)), num_steps)[step]] += _STEP
        return "step", np.clip(moved, _LOWEST_WEIGHT, _HIGHEST_WEIGHT)
    return _surrogate_step(trials, center_N)


def _surrogate_step(trials: Sequence[Trial], center_N: Array) -> tuple[str, Array] | None:
    finite = [trial for trial in trials if math.isfinite(trial.bits_per_byte)]
    points_PN = np.array([trial.weights for trial in finite])
    values_P = np.array([trial.bits_per_byte for trial in finite])
    radius = _radius(trials)
    while radius >= _SMALLEST_RADIUS:
        surrogate = fit_quadratic(points_PN, values_P, center_N=center_N, scale=radius)
        point_N = surrogate.minimum_within(radius, low=_LOWEST_WEIGHT, high=_HIGHEST_WEIGHT)
        is_new = np.abs(points_PN - point_N).max(axis=1).min() > _SMALLEST_RADIUS / 10
        if is_new and surrogate(center_N) - surrogate(point_N) > _SMALLEST_GAIN:
            return "surrogate", point_N
        radius *= _SHRINKAGE
    return None


def _radius(trials: Sequence[Trial]) -> float:
    """Return the radius of the surrogate's trust region, from its success so far."""
    radius, best = _STEP, math.inf
    for trial in trials:
        if trial.origin == "surrogate":
            is_better = trial.bits_per_byte < best
            radius = min(radius * (_GROWTH if is_better else _SHRINKAGE), _LARGEST_RADIUS)
        best = min(best, trial.bits_per_byte)
    return radius


def _tried(score: Score, number: int, origin: str, weights_N: Array) -> Trial:
    domains: Mapping[str, float] = {}
    try:
        domains = score(weights_N)
    except ScoringError as error:
        _log.warning("trial %d (%s): %s", number, origin, error)
    bits = float(np.mean(list(domains.values()))) if domains else math.inf
    return Trial(number, origin, tuple(weights_N.tolist()), bits, dict(domains))
