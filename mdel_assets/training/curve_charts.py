"""A training's curves as charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from mdel_assets.charts import figure, line_chart

_Points = Sequence[tuple[float, float]]
_OTHERS = {
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
}


def loss_chart(
    curves: Mapping[str, _Points],
    *,
    before: Mapping[str, float],
    after: Mapping[str, float],
    num_steps: int,
) -> Any:
    """Return a figure of the training loss and, by split, of the validation losses over steps.

    ``before`` and ``after`` are the validation losses of step 0 and of the last step.
    """
    shown: dict[str, _Points] = {"training": curves["loss"]}
    for split in before:
        between = [p for p in curves.get(f"loss/{split}", ()) if p[0] < num_steps]
        shown[split] = [(0, before[split]), *between, (num_steps, after[split])]
    return line_chart(shown, x_label="step", y_label="nats per token", title="Loss")


def pace_charts(curves: Mapping[str, _Points]) -> Any:
    """Return a figure of learning rate, gradient norm and tokens per second, side by side."""
    drawn = figure(width=9.0, height=2.4)
    for axes, (name, title) in zip(drawn.subplots(1, len(_OTHERS)), _OTHERS.items(), strict=True):
        points = curves.get(name, ())
        axes.plot(
            [x for x, _ in points], [y for _, y in points], marker="o" if len(points) < 3 else None
        )
        axes.set(xlabel="step", title=title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return drawn
