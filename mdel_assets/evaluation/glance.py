"""The experiment at a glance: the gain of each use of the same tokens, and its cost to run.

There is one bar for each way to spend an experiment's tokens: one model, models merged into one,
models that run together. Figures are averages over domains, each counting once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdel_assets.charts import figure
from mdel_assets.evaluation.ensemble_scores import num_experts_run
from mdel_assets.evaluation.sample_sizes import total_label
from mdel_assets.experiment.model_keys import DENSE, DENSE_ONE, POSTERIOR, Family, ModelKey

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import AverageRow, Matrix

ROUTED = "ensemble-linear-top1"
RANDOM_SPLIT = "ensemble-random-split-posterior-all"
_COLOURS: dict[Family | None, str] = {
    Family.ENSEMBLE: "tab:blue",
    Family.MERGED: "tab:green",
    Family.DENSE: "tab:orange",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """One way to spend the tokens: bits per byte gained on the seed, interval, and cost."""

    label: str
    model: str
    gain: float
    low: float
    high: float
    num_models_run: int


def glance(matrix: "Matrix", *, num_experts: int, merged: Mapping[str, str]) -> list[Bar]:
    """Return the bars of the first split, the largest gain first.

    ``merged`` gives the label of each merged model to show.
    """
    labels = labels_of(num_experts, merged)
    rows = [r for r in matrix.averages if r.split == matrix.splits[0] and r.model in labels]
    bars = [_bar(row, labels[row.model], num_experts) for row in rows]
    return sorted(bars, key=lambda bar: bar.gain, reverse=True)


def labels_of(num_experts: int, merged: Mapping[str, str]) -> dict[str, str]:
    """Return the models that are shown, and what each is called; ``merged`` as in `glance`."""
    return {
        POSTERIOR: f"{num_experts} domain experts together",
        ROUTED: "one domain expert, which a router chooses",
        RANDOM_SPLIT: f"{num_experts} random-split experts together",
        DENSE: "one model, all the experts' tokens",
        DENSE_ONE: "one model, one expert's tokens",
        **merged,
    }


def glance_of(matrix: "Matrix", *, num_experts: int, merged: Mapping[str, str]) -> Any:
    """Return the bars of `glance` as a matplotlib figure."""
    bars, split = glance(matrix, num_experts=num_experts, merged=merged), matrix.splits[0]
    return glance_figure(bars, split=split, text=total_label(matrix, split), over=matrix.over)


def _bar(row: "AverageRow", label: str, num_experts: int) -> Bar:
    change = row.change
    runs = num_experts_run(row.model, num_experts)
    return Bar(label, row.model, -change.value, -change.high, -change.low, runs)


def glance_figure(bars: Sequence[Bar], *, split: str, text: str, over: str = "") -> Any:
    """Return the bars as a matplotlib figure: to the right is better.

    ``text`` says how much text of ``split`` the bars are measured on, ``over`` what intervals hold
    (`Matrix.over`).
    """
    drawn = figure(width=8.6, height=1.2 + 0.5 * max(1, len(bars)))
    axes = drawn.add_subplot()
    for place, bar in enumerate(bars):
        whiskers = [[bar.gain - bar.low], [bar.high - bar.gain]]
        axes.barh(
            place,
            bar.gain,
            color=_COLOURS[ModelKey.parse(bar.model).family],
            alpha=1.0 if bar.model in (POSTERIOR, ROUTED, DENSE) else 0.55,
            xerr=np.maximum(whiskers, 0.0),
            error_kw={"elinewidth": 1.0, "capsize": 2.0},
        )
        axes.annotate(
            f"{bar.gain:+.3f}",
            (max(bar.high, 0.0), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [f"{bar.label}\n({_price(bar)})" for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title("Bits per byte better than the seed (longer is better)")
    axes.set_xlabel(
        f"mean of domains on {split},\nof {text}, with 95 % intervals{over}", fontsize=9
    )
    axes.grid(alpha=0.3, axis="x")
    return drawn


def _price(bar: Bar) -> str:
    number = bar.num_models_run
    return "1 model runs per token" if number == 1 else f"{number} models run per token"
