"""Figures of several trainings, and intervals that hold both documents and trainings.

A figure of R trainings has R values, one for each training seed, and for each of them S bootstrap
draws. Draw number s takes the same documents in all trainings, so sums and differences of figures
are taken value by value and draw by draw: they stay paired over documents and over trainings.

What the mean of the R values differs from the truth by has two parts. The trainings' part has the
variance ``A = s^2 / R``, with s^2 the variance of the R values; it holds what differs from training
to training, on these documents and beyond them. The documents' part is what all trainings share,
because they are judged by the same documents: its variance ``C`` is the mean covariance of two
trainings over the draws. Their sum is V.

The half-width of the 95 % interval is ``sqrt(V) * q``. With few trainings, A is a poor estimate, so
q lies between the critical values of Student's t for the documents (almost 1.96) and for R - 1
degrees of freedom (4.30 for three trainings): its square is interpolated by ``(A / V)^2``. That is
Satterthwaite's approximation of the degrees of freedom, ``1 / f = (A / V)^2 / (R - 1)``, with the
table of t interpolated linearly in ``1 / f``. Satterthwaite's own q is too small for three
trainings. `benchmarks/bench_coverage.py` prints how often these intervals hold the truth.

Sources: Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components";
Owen 2007, "The Pigeonhole Bootstrap", on draws of crossed effects.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mdel_assets.scoring.estimates import Estimate, documents_behind
from mdel_assets.scoring.perplexity import interval

_UPPER = 0.975


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of R trainings: its values, and S bootstrap draws of each value.

    ``num_documents`` is the number of documents that it counts for (`documents_behind`).
    """

    values_R: NDArray[np.float64]
    draws_RS: NDArray[np.float64]
    num_documents: int

    @property
    def value(self) -> float:
        """The mean over trainings."""
        return float(self.values_R.mean())

    def first(self, number: int) -> "Figure":
        """Return the figure of the first ``number`` trainings alone."""
        return Figure(self.values_R[:number], self.draws_RS[:number], self.num_documents)

    def __sub__(self, other: "Figure") -> "Figure":
        """Return the difference, paired; of the trainings that both have."""
        number = min(len(self.values_R), len(other.values_R))
        ours, theirs = self.first(number), other.first(number)
        return Figure(
            ours.values_R - theirs.values_R,
            ours.draws_RS - theirs.draws_RS,
            min(self.num_documents, other.num_documents),
        )

    def estimate(self) -> Estimate:
        """Return the mean over trainings with its 95 % interval."""
        return Estimate(self.value, *self.bounds(), self.num_documents)

    @property
    def num_trainings(self) -> int:
        """How many trainings differ: one for a model that is the same in all of them."""
        first = self.draws_RS[0]
        is_same = all(np.array_equal(first, own, equal_nan=True) for own in self.draws_RS[1:])
        return 1 if is_same else len(self.values_R)

    def bounds(self) -> tuple[float, float]:
        """Return the 95 % interval: over documents alone if there is one training."""
        if self.num_trainings == 1:
            return interval(self.draws_RS[0])
        half = _half_width(self.values_R, self.draws_RS, num_documents=self.num_documents)
        return self.value - half, self.value + half


def mean_of(figures: Sequence[Figure]) -> Figure:
    """Return the mean of figures of different documents, of the trainings that all have."""
    number = min(len(figure.values_R) for figure in figures)
    kept = [figure.first(number) for figure in figures]
    # Each training by itself: a sum over an axis would round in another order.
    values = [float(np.mean([figure.values_R[r] for figure in kept])) for r in range(number)]
    return Figure(
        np.array(values),
        np.mean([figure.draws_RS for figure in kept], axis=0),
        documents_behind([figure.num_documents for figure in kept]),
    )


def _half_width(
    values_R: NDArray[np.float64], draws_RS: NDArray[np.float64], *, num_documents: int
) -> float:
    """Return half the width of the interval of the module's docstring, for R > 1 trainings."""
    from scipy.special import stdtrit

    number = len(values_R)
    # A draw without any byte is NaN in every training.
    covariance_RR = np.cov(draws_RS[:, ~np.isnan(draws_RS).any(axis=0)])
    shared = float(covariance_RR.sum() - np.trace(covariance_RR)) / (number * (number - 1))
    trained = float(values_R.var(ddof=1)) / number
    total = trained + max(shared, 0.0)
    if total == 0.0:
        return 0.0
    by_documents = stdtrit(max(num_documents - 1, 1), _UPPER) ** 2
    by_trainings = stdtrit(number - 1, _UPPER) ** 2
    share = (trained / total) ** 2
    return math.sqrt(total * (by_documents + (by_trainings - by_documents) * share))
