"""How often a 95 % interval holds the truth, where documents and trainings vary by known amounts.

Two models are compared on the same documents, of log-normal length. What a document's text does to
their difference is heavy-tailed and smaller for longer documents; what a training does to it is
normal, with ``ratio`` times the variance that the documents cause. Every
training also treats every document a little differently. The true difference is zero.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import show
from mdel_assets.scoring.perplexity import document_draws
from mdel_assets.scoring.trainings import Figure

RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)
_MEDIAN_BYTES = 1100.0
_NUM_TRIALS, _NUM_DRAWS, _NUM_DOCUMENTS = 5000, 1000, 200


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The share of intervals that hold the truth: of all trainings, and of the first alone."""

    trainings: float
    documents_only: float


def coverage(
    num_trainings: int,
    ratio: float,
    *,
    num_trials: int,
    num_documents: int = _NUM_DOCUMENTS,
    num_draws: int = _NUM_DRAWS,
) -> Coverage:
    """Return how often the difference's interval holds zero.

    ``ratio`` is the trainings' variance over the documents'.
    """
    draw = np.random.default_rng([num_trainings, round(1000 * ratio)])
    spread = math.sqrt(ratio * _documents_variance(num_documents))
    times_SD = times_drawn(num_documents, num_draws)
    held = held_by_first = 0
    for _ in range(num_trials):
        size_D = _sizes(draw, num_documents)
        ours_R, theirs_R = draw.normal(0.0, spread / math.sqrt(2), (2, num_trainings, 1))
        text_D = draw.lognormal(0.5, 0.3, num_documents)
        own_RD = 0.5 * draw.standard_normal((num_trainings, num_documents))
        ours_RD = text_D + _effects(draw, size_D) + own_RD + ours_R
        theirs_RD = text_D + theirs_R
        ours = figure_of(ours_RD, size_D, times_SD)
        difference = ours - figure_of(theirs_RD, size_D, times_SD)
        low, high = difference.bounds()
        held += low <= 0 <= high
        low, high = difference.first(1).bounds()
        held_by_first += low <= 0 <= high
    return Coverage(held / num_trials, held_by_first / num_trials)


def _sizes(draw: np.random.Generator, num_documents: int) -> NDArray[np.float64]:
    return draw.lognormal(math.log(_MEDIAN_BYTES), 1.0, num_documents)


def _effects(draw: np.random.Generator, size_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each document's text does to the difference of two models, per byte."""
    tails_D = draw.standard_t(5, len(size_D))
    return np.asarray(tails_D * (size_D / _MEDIAN_BYTES) ** -0.25, np.float64)


def _documents_variance(num_documents: int, *, num_trials: int = 20_000) -> float:
    """Return the variance of the difference that documents alone cause."""
    draw = np.random.default_rng(num_documents)
    found = []
    for _ in range(num_trials):
        size_D = _sizes(draw, num_documents)
        found.append(float(_effects(draw, size_D) @ size_D / size_D.sum()))
    return float(np.var(found))


def times_drawn(num_documents: int, num_draws: int) -> NDArray[np.float64]:
    """Return how often each bootstrap draw takes each document: those of a report."""
    times_SD = np.zeros((num_draws, num_documents))
    draws = document_draws(num_documents, num_samples=num_draws, seed=0, name="simulated")
    for number, chosen in enumerate(chosen for step in draws for chosen in step):
        times_SD[number] = np.bincount(chosen, minlength=num_documents)
    return times_SD


def figure_of(
    bits_RD: NDArray[np.float64], size_D: NDArray[np.float64], times_SD: NDArray[np.float64]
) -> Figure:
    """Return the figure of R models by their bits per byte on D documents, and S draws of these."""
    total_RD = bits_RD * size_D
    drawn_SR = (times_SD @ total_RD.T) / (times_SD @ size_D)[:, None]
    return Figure(total_RD.sum(axis=1) / size_D.sum(), drawn_SR.T, len(size_D))


def main() -> None:
    """Print the coverage for three and for five trainings, and that of one training's interval."""
    for num_trainings in (3, 5):
        for ratio in RATIOS:
            found = coverage(num_trainings, ratio, num_trials=_NUM_TRIALS)
            name = f"coverage_of_{num_trainings}_trainings_at_variance_ratio_{ratio:g}"
            show(name, 100 * found.trainings, "%")
            show(f"{name}_documents_only", 100 * found.documents_only, "%")


if __name__ == "__main__":
    main()
