"""The comparison of models by tasks: as Markdown, as text for a terminal, as JSON."""

from typing import Any

from mdel_assets.scoring.markdown_table import as_markdown
from mdel_assets.tasks.comparison import Column, Comparison, findings

_NONE = "–"
LEGEND = (
    "The figure of each task with its standard error, as lm-evaluation-harness reports them; "
    "bits per byte are the mean over domains."
)


def comparison_markdown(comparison: Comparison) -> str:
    """Return the table, and what it says."""
    lines = [
        *("# Tasks", "", LEGEND, ""),
        *as_markdown(_cells(comparison)),
        "",
        *(f"- {line}" for line in findings(comparison)),
    ]
    return "\n".join(lines) + "\n"


def comparison_text(comparison: Comparison, *, width: int) -> str:
    """Return the table in lines of at most ``width`` characters, as far as one task fits."""
    rows = _cells(comparison)
    sizes = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    blocks: list[list[int]] = [[]]
    for i in range(1, len(sizes)):
        taken = sizes[0] + sum(2 + sizes[j] for j in (*blocks[-1], i))
        if blocks[-1] and taken > width:
            blocks.append([])
        blocks[-1].append(i)
    tables = [
        "\n".join(
            (
                row[0].ljust(sizes[0]) + "".join("  " + row[i].rjust(sizes[i]) for i in block)
            ).rstrip()
            for row in rows
        )
        for block in blocks
    ]
    told = "\n".join(line.replace("`", "") for line in findings(comparison))
    return "\n\n".join([*tables, told])


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """Return figures and correlations as ``mdel tasks --json`` prints them."""
    return {
        "figures": comparison.as_rows(),
        "correlations": [
            {
                "task": each.column.task,
                "metric": each.column.metric,
                "num_models": each.num_models,
                "pearson": each.pearson,
                "rank": each.rank,
                "chance": each.chance,
            }
            for each in comparison.correlations
        ],
        "findings": findings(comparison),
    }


def _cells(comparison: Comparison) -> list[list[str]]:
    header = ["model", "bits per byte", *(heading(comparison, each) for each in comparison.columns)]
    rows = [
        [model, _number(comparison.bits.get(model)), *figures_of(comparison, model)]
        for model in comparison.figures
    ]
    items = ["items", "", *(f"{comparison.num_items(each):,}" for each in comparison.columns)]
    return [header, *rows, items]


def heading(comparison: Comparison, column: Column) -> str:
    """Return a column's heading; its arrow points to where better figures are."""
    arrow = {True: " ↑", False: " ↓", None: ""}[comparison.is_higher_better(column)]
    return f"{column.task} {column.metric}{arrow}"


def figures_of(comparison: Comparison, model: str) -> list[str]:
    """Return a model's figures with their standard errors, in the order of the columns."""
    found = []
    for column in comparison.columns:
        figure = comparison.figures[model].get(column)
        if figure is None:
            found.append(_NONE)
            continue
        error = "" if figure.error is None else f" ± {_number(figure.error)}"
        found.append(_number(figure.value) + error)
    return found


def _number(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
