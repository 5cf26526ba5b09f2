"""Rows of bars with intervals: a label, a bar from zero, its 95 % interval, and the figures.

The page draws them; here they get their places on a common scale. Bars much longer than the others
are cut, as in `evaluation/changes.py`; their figures stand beside them.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from mdel_assets.evaluation.changes import scale_of
from mdel_assets.experiment.model_keys import Family, ModelKey
from mdel_assets.scoring.estimates import TOO_FEW, Estimate

# The width of a bar's box, in units of its drawing.
_WIDTH = 1000.0
# How far from its end a bar is broken that is longer than the scale.
_CUT = 40.0
# The families that have a colour of their own, with their words in the legend.
_FAMILIES = {
    Family.DENSE: "one model of all domains",
    Family.EXPERT: "expert of one domain",
    Family.VARIANT: "variant of an expert",
    Family.RANDOM: "expert of a random split",
    Family.MERGED: "merged model",
    Family.MIXTURE: "mixture of experts",
    Family.ENSEMBLE: "experts run together",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar in its box, 1000 wide; ``cut_at`` is where it is broken, if it is too long."""

    label: str
    note: str
    family: str
    figures: str
    is_sure: bool
    zero: float
    left: float
    width: float
    low: float
    high: float
    cut_at: float | None


@dataclasses.dataclass(frozen=True)
class Bars:
    """Bars on one scale, the ends of the scale, and the legend: family and words."""

    title: str
    rows: Sequence[Bar]
    left_end: str
    right_end: str
    zero_percent: float
    legend: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a bar shows: a model's difference, with a label and a note."""

    model: str
    change: Estimate
    label: str = ""
    note: str = ""


def bars_of(
    measured: Sequence[Measured], *, title: str, scale: tuple[float, float] | None = None
) -> Bars:
    """Return the bars of differences on their own scale, or on ``scale``."""
    low, high = scale or scale_of([entry.change for entry in measured])

    def place(value: float) -> float:
        return round(_WIDTH * (min(max(value, low), high) - low) / (high - low), 1)

    zero = place(0.0)
    rows = []
    for entry in measured:
        change, end = entry.change, place(entry.change.value)
        rows.append(
            Bar(
                label=entry.label or entry.model,
                note=entry.note,
                family=family_of(entry.model),
                figures=figures_of(change),
                is_sure=change.is_sure,
                zero=zero,
                left=min(zero, end),
                width=round(abs(end - zero), 1),
                low=place(change.low),
                high=place(change.high),
                cut_at=None if low <= change.value <= high else abs(end - _CUT),
            )
        )
    legend = legend_of(entry.model for entry in measured)
    ends = (f"{low:+.2f}", f"{high:+.2f}")
    return Bars(title, rows, *ends, zero / _WIDTH * 100, legend)


def figures_of(change: Estimate) -> str:
    """Return a difference with its interval, and a doubt where documents are too few."""
    doubt = "" if change.is_enough else f" ({TOO_FEW})"
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]{doubt}"


def family_of(model: str) -> str:
    """Return the family whose colour a model has."""
    family = ModelKey.parse(model).family
    return family.value if family in _FAMILIES else "other"


def legend_of(models: Iterable[str]) -> list[tuple[str, str]]:
    """Return the families of ``models`` with their words, in the order in which they come."""
    found = dict.fromkeys(family_of(model) for model in models)
    return [(family, _FAMILIES[Family(family)]) for family in found if family != "other"]
