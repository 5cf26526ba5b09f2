"""The perplexity matrix as Markdown: tables, and findings in sentences."""

from typing import TYPE_CHECKING

from mdel_assets.evaluation.findings import best_rows, comparison_rows, findings
from mdel_assets.evaluation.ranking import ranking_rows
from mdel_assets.evaluation.sample_sizes import size_rows
from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.experiment.model_keys import SEED
from mdel_assets.scoring.markdown_table import as_markdown

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix, Row

_LEGEND = (
    "Bits per byte (lower is better) with half the width of the 95 % interval{over}. "
    "*Change* is from the seed, on the same resampled documents; it is in **bold** "
    "if its interval excludes zero and there are enough documents "
    f"(at least {MIN_DOCUMENTS}). *Macro*: every domain counts once. Perplexity is per "
    "token and compares only models with the same tokenizer."
)
_CHANGE_LEGEND = (
    "Change from the seed, paired (*: the 95 % interval excludes zero, with at least "
    f"{MIN_DOCUMENTS} documents)"
)
STALE_MARK = " †"
_STALE_LEGEND = (
    "† remade since: the model or the dataset was remade after scoring. Materialize "
    "`token_scores` of that model, or use `mdel run`."
)
_RANKING_LEGEND = (
    "All models, the best average first. *Seed*: the change from the seed. *As good*: as the "
    "first, by the paired interval. Each is one model and costs one run per token; `ensemble.md` "
    "has the cost of ensembles, and the cheapest choice that is as good."
)
_SPLIT_TITLES = {
    "validation_domain": "Validation text of each domain",
    "validation_pile": "Validation text of all other domains",
    "test_domain": "Test text of each domain",
    "test_pile": "Test text of all other domains",
}


def matrix_markdown(matrix: "Matrix") -> str:
    """Return the whole report: per split bits per byte, change from the seed and perplexity."""
    parts = [
        "# Perplexity matrix",
        "",
        _LEGEND.format(over=matrix.over or " of a document bootstrap"),
        "",
        *([_STALE_LEGEND, ""] if matrix.stale else []),
        *(f"- `{dataset}`: {about}" for dataset, about in matrix.legend.items()),
        *([""] if matrix.legend else []),
        *(f"- {note}" for note in matrix.notes),
        *([""] if matrix.notes else []),
    ]
    for split in matrix.splits:
        parts += [f"## {_SPLIT_TITLES.get(split, split)} (`{split}`)", ""]
        parts += [*_bits_table(matrix, split), "", *_change_table(matrix, split), ""]
        parts += [*_perplexity_table(matrix, split), ""]
    parts += ["## What it says", "", *(f"- {line}" for line in findings(matrix)), ""]
    parts += [
        f"Paired, with 95 % intervals{matrix.over}; in **bold** if the interval excludes zero.",
        "",
    ]
    for split in matrix.splits[:1]:
        parts += [*as_markdown(comparison_rows(matrix, split, mark=True)), ""]
        parts += [*as_markdown(best_rows(matrix, split)), ""]
        parts += [_RANKING_LEGEND, "", *as_markdown(ranking_rows(matrix, split)), ""]
    if matrix.missing:
        parts += ["## Missing", "", *(f"- {line}" for line in matrix.missing), ""]
    return "\n".join(parts)


def matrix_text(matrix: "Matrix", *, width: int = 120) -> str:
    """Return the first split's table and the findings, for a terminal of ``width`` columns."""
    split = matrix.splits[0]
    header = f"Bits per byte on {split}, lower is better (± half the 95 % interval{matrix.over})"
    table = _folded(_bits_rows(matrix, split, mark=False), width)
    change = _folded(_change_rows(matrix, split, mark=False), width)
    intervals = f"intervals{matrix.over}"
    notes = [f"{dataset}: {about}" for dataset, about in matrix.legend.items()]
    notes += [*matrix.notes, *([_STALE_LEGEND] if matrix.stale else [])]
    return "\n".join(
        [
            header,
            "",
            table,
            *(["", *notes] if notes else []),
            "",
            _CHANGE_LEGEND,
            "",
            change,
            "",
            f"Experts and merged models against seed and baselines, paired, with 95 % {intervals}",
            "",
            _folded(comparison_rows(matrix, split, mark=False), width),
            "",
            *findings(matrix),
        ]
    )


def _bits_table(matrix: "Matrix", split: str) -> list[str]:
    return as_markdown(_bits_rows(matrix, split, mark=True))


def _change_table(matrix: "Matrix", split: str) -> list[str]:
    return as_markdown(_change_rows(matrix, split, mark=True))


def _perplexity_table(matrix: "Matrix", split: str) -> list[str]:
    rows = [["Perplexity per token", *matrix.datasets]]
    for model in matrix.models:
        cells = [_cell(matrix, model, dataset, split) for dataset in matrix.datasets]
        rows.append([model, *(_number(cell, "perplexity", ".2f") for cell in cells)])
    return as_markdown(rows)


def _bits_rows(matrix: "Matrix", split: str, *, mark: bool) -> list[list[str]]:
    averages = {a.model: a for a in matrix.averages if a.split == split}
    rows = [["Bits per byte" if mark else "model", *matrix.datasets, "macro", "micro"]]
    best = {
        dataset: min(
            (v for m in matrix.models if (v := _bits(matrix, m, dataset, split))), default=None
        )
        for dataset in matrix.datasets
    }
    for model in matrix.models:
        row = [model]
        for dataset in matrix.datasets:
            cell = _cell(matrix, model, dataset, split)
            text = "no text"
            if cell and cell["bits_per_byte"] is not None:
                half = (
                    float(cell["bits_per_byte_high"] or 0) - float(cell["bits_per_byte_low"] or 0)
                ) / 2
                text = f"{cell['bits_per_byte']:.3f} ± {half:.3f}"
                if (model, dataset, split) in matrix.stale:
                    text += STALE_MARK
                if mark and cell["bits_per_byte"] == best[dataset]:
                    text = f"**{text}**"
            row.append(text)
        average = averages.get(model)
        row += [f"{average.macro.value:.3f}", f"{average.micro:.3f}"] if average else ["", ""]
        rows.append(row)
    return rows + size_rows(matrix, split, num_rest=2)


def _change_rows(matrix: "Matrix", split: str, *, mark: bool) -> list[list[str]]:
    averages = {a.model: a for a in matrix.averages if a.split == split}
    rows = [["Change from seed" if mark else "model", *matrix.datasets, "macro"]]
    for model in matrix.models:
        if model == SEED:
            continue
        row = [model]
        for dataset in matrix.datasets:
            change = matrix.change((model, dataset, split))
            row.append(change.marked(f"{change.value:+.3f}", bold=mark) if change else "no text")
        if average := averages.get(model):
            row.append(average.change.marked(f"{average.change.value:+.3f}", bold=mark))
        rows.append(row)
    return rows


def _cell(matrix: "Matrix", model: str, dataset: str, split: str) -> "Row | None":
    return matrix.row_of.get((model, dataset, split))


def _bits(matrix: "Matrix", model: str, dataset: str, split: str) -> float | None:
    cell = _cell(matrix, model, dataset, split)
    return None if cell is None or cell["bits_per_byte"] is None else float(cell["bits_per_byte"])


def _number(cell: "Row | None", name: str, form: str) -> str:
    return "no text" if cell is None or cell[name] is None else format(cell[name], form)


def _folded(rows: list[list[str]], width: int) -> str:
    """Return a table in parts of up to ``width`` characters; each repeats the first column."""
    if len({len(row) for row in rows}) > 1:
        return _aligned(rows)
    columns = list(zip(*rows, strict=True))
    sizes = [max(map(len, column)) for column in columns]
    parts: list[list[int]] = [[0]]
    held = sizes[0]
    for number, size in enumerate(sizes[1:], 1):
        if held + 2 + size > width and len(parts[-1]) > 1:
            parts.append([0])
            held = sizes[0]
        parts[-1].append(number)
        held += 2 + size
    return "\n\n".join(_aligned([[row[i] for i in part] for row in rows]) for part in parts)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        rest = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
