"""Tasks as the page shows them: every model's figures, and a chart beside bits per byte."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.line.kind import Input
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.made_of import Records
from mdel_assets.tasks.chart import comparison_figure
from mdel_assets.tasks.comparison import findings
from mdel_assets.tasks.comparison_text import figures_of, heading
from mdel_assets.tasks.steps import read_comparison, results_asked_for

_FONT, _WIDTH = 10, 5.6


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """A model's bits per byte, None where it was not scored, and its figures with their errors."""

    model: str
    bits: float | None
    figures: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The table, what it says, and ``chart``, an SVG element."""

    headings: Sequence[str]
    rows: Sequence[TaskRow]
    num_items: Sequence[int]
    findings: Sequence[str]
    split: str
    chart: str


def tasks_of(lineage: Lineage, records: Records) -> Tasks | None:
    """Return what models score on tasks; None where the experiment names none, or ran none of them.

    After a change of `evaluation.tasks`, reports of other tasks may remain.
    """
    from mdel_assets.charts import to_svg

    if records.get(Input("task_matrix")) is None or not results_asked_for(lineage):
        return None
    comparison = read_comparison(lineage)
    drawn = comparison_figure(comparison, across=1, width=_WIDTH, font=_FONT)
    title = f"Figures of {len(comparison.columns)} tasks over bits per byte"
    svg = to_svg(drawn, name="tasks", title=title).replace("#0072b1", "var(--blue)")
    return Tasks(
        [heading(comparison, column) for column in comparison.columns],
        [
            TaskRow(model, comparison.bits.get(model), figures_of(comparison, model))
            for model in comparison.figures
        ],
        [comparison.num_items(column) for column in comparison.columns],
        findings(comparison),
        comparison.split,
        svg.replace("#8a8a8a", "var(--grey)"),
    )
