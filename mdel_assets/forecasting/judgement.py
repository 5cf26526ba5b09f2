"""How good forecasts are: every point predicted by a line that was fitted without it.

Beside it stands the law of KALAVAI (Kumaresan 2026, arXiv 2603.22755) on the same points: the gain
of a fused model over the best specialist in percent is 0.82 times the specialists' divergence in
percent, less 2.72. It is asked twice: of the probes' divergence, which is known beforehand, and of
the whole experts', which it was stated for and which is known only when they are trained.

Rank correlations are Spearman's.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mdel_assets.forecasting.advice import APART, DENSE, ENSEMBLE, course
from mdel_assets.forecasting.model import MIN_POINTS, Point, left_out, with_gain
from mdel_assets.scoring.markdown_table import as_markdown

_SLOPE, _CONSTANT = 0.82, -2.72
_OF_PROBES, _OF_EXPERTS = "law on the probes' divergence", "law on the experts' divergence"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How predictions agree with what was measured: None where that cannot be said."""

    what: str
    num_points: int
    rank_correlation: float | None
    mean_error: float


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Forecasts of a map's points, left out one at a time.

    ``lines`` are by contender, ``laws`` those of KALAVAI. ``advised`` and ``best`` are courses by
    setting: by the predicted gains, and by the measured ones. ``by_law`` are those of the law on
    the probes' divergence: apart where it predicts a gain.
    """

    lines: Sequence[Agreement]
    laws: Sequence[Agreement]
    advised: Mapping[str, str]
    by_law: Mapping[str, str]
    best: Mapping[str, str]

    @property
    def num_right(self) -> int:
        """In how many settings the advised course was the best."""
        return _num_equal(self.advised, self.best)

    @property
    def most_frequent(self) -> int:
        """How often the course was the best that was best most often."""
        return max(Counter(self.best.values()).values(), default=0)


def kalavai(divergence: float) -> float:
    """Return the gain over the best specialist in percent by the law."""
    return _SLOPE * divergence + _CONSTANT


def judge(points: Sequence[Point], contenders: Sequence[str]) -> Judgement | None:
    """Return how forecasts of ``points`` agree; None with too few points for one more to be left.

    Contenders that too few points have are left out.
    """
    predicted: dict[str, dict[str, float]] = {}
    lines = []
    for name in contenders:
        own = with_gain(points, name)
        if len(own) <= MIN_POINTS:
            continue
        gains = [float(gain) for gain in left_out(own, name)]
        for point, gain in zip(own, gains, strict=True):
            predicted.setdefault(point.setting, {})[name] = gain
        lines.append(_agreement(f"gain of {name}", gains, [p.gains[name] for p in own]))
    judged = [p for p in points if ENSEMBLE in predicted.get(p.setting, {})]
    if not judged:
        return None
    own_law = {p.setting: kalavai(p.features["own_divergence"]) for p in judged}
    return Judgement(
        lines,
        _laws(judged),
        {p.setting: course(predicted[p.setting]) for p in judged},
        {name: APART if gain > 0 else DENSE for name, gain in own_law.items()},
        # Only what is predicted is a course.
        {p.setting: course({name: p.gains[name] for name in predicted[p.setting]}) for p in judged},
    )


def trust(judgement: Judgement | None) -> str:
    """Return how far forecasts were right, in two sentences; empty where that is not known."""
    if judgement is None:
        return ""
    found = [
        f"{'unknown' if a.rank_correlation is None else f'{a.rank_correlation:.2f}'} for the "
        f"{a.what.removeprefix('gain of ')} (mean error {a.mean_error:.2f} percentage points, "
        f"{a.num_points} settings)"
        for a in judgement.lines
    ]
    return (
        f"How far to trust this: with each setting of the map forecast by the others, the rank "
        f"correlation with the measured gain was {', '.join(found)}. The advice was right in "
        f"{judgement.num_right} of {len(judgement.best)} settings; always saying the same would "
        f"have been right in {judgement.most_frequent}."
    )


def judgement_markdown(judgement: Judgement | None) -> str:
    """Return the judgement as a page."""
    if judgement is None:
        return (
            f"Too few settings with probes to judge forecasts: more than {MIN_POINTS} are needed.\n"
        )
    rows = [["predicted", "settings", "rank correlation", "mean error"]]
    rows += [
        [
            a.what,
            str(a.num_points),
            "unknown" if a.rank_correlation is None else f"{a.rank_correlation:.2f}",
            f"{a.mean_error:.2f} percentage points",
        ]
        for a in (*judgement.lines, *judgement.laws)
    ]
    count = len(judgement.best)
    right = (
        f"- The advice is right in {judgement.num_right} of {count} settings; always the course "
        f"that is best most often, it would be in {judgement.most_frequent}."
    )
    by_law = (
        f"- By KALAVAI's law on the probes' divergence it would be right in "
        f"{_num_equal(judgement.by_law, judgement.best)}."
    )
    courses = [["setting", "advised", "best", "by the law"]]
    courses += [
        [name, judgement.advised[name], best, judgement.by_law[name]]
        for name, best in judgement.best.items()
    ]
    parts = [
        "# Forecasts of settings that were left out",
        "",
        *as_markdown(rows),
        "",
        right,
        by_law,
        "",
        *as_markdown(courses),
    ]
    return "\n".join(parts) + "\n"


def _laws(points: Sequence[Point]) -> list[Agreement]:
    """Return how the law agrees with its own target, and with the gain over `dense`."""
    known = [p for p in points if p.experts]
    predictions = {
        _OF_PROBES: [kalavai(p.features["own_divergence"]) for p in known],
        _OF_EXPERTS: [kalavai(p.experts["divergence"]) for p in known],
    }
    targets = {
        "the ensemble's gain over the best expert": [
            p.experts["gain_over_best_expert"] for p in known
        ],
        "the ensemble's gain over dense": [p.gains[ENSEMBLE] for p in known],
    }
    return [
        _agreement(f"{target}, by the {law}", gains, measured)
        for target, measured in targets.items()
        for law, gains in predictions.items()
        if known
    ]


def _agreement(what: str, predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    from scipy.stats import rankdata

    errors = np.abs(np.asarray(predicted) - np.asarray(measured))
    ranks = rankdata(predicted), rankdata(measured)
    # A correlation with what is the same everywhere is not defined.
    is_defined = len(measured) > 1 and all(np.ptp(rank) > 0 for rank in ranks)
    correlation = float(np.corrcoef(*ranks)[0, 1]) if is_defined else math.nan
    return Agreement(
        what,
        len(measured),
        None if math.isnan(correlation) else correlation,
        float(errors.mean()),
    )


def _num_equal(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    return sum(one[name] == value for name, value in other.items())
