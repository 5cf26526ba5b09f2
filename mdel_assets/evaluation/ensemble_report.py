"""The ensemble report: ensembles compared with single models, and the cost to serve each."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mdel_assets.errors import ScoringError
from mdel_assets.evaluation.ensemble_scores import num_experts_run
from mdel_assets.evaluation.findings import verdict
from mdel_assets.evaluation.glance import RANDOM_SPLIT, ROUTED, glance_of
from mdel_assets.evaluation.matrix import AverageRow, Matrix
from mdel_assets.evaluation.matrix_files import averages_table
from mdel_assets.evaluation.sample_sizes import left_out, too_few, total_label
from mdel_assets.experiment.model_keys import DENSE, POSTERIOR, Family
from mdel_assets.scoring.estimates import TOO_FEW, Estimate
from mdel_assets.scoring.markdown_table import as_markdown
from mdel_assets.scoring.perplexity import rows_to_table

# Uses each document's label, which is unknown in use: a bound to compare with, not a rival.
LABEL = "ensemble-label"
_RIVALS = (DENSE, RANDOM_SPLIT)
_HEADER = """# Ensembles of experts

Bits per byte (lower is better), averaged over domains, each counting once, with the 95 % interval
{over}. *Change* is paired, against the best single model on that split; it is in
**bold** if its interval excludes zero. *Runs* is the number of models that run for each token.

An ensemble averages its experts' probabilities. `posterior` weights them by how well they predicted
the preceding tokens (Bayes), with a prior learned on other validation documents of the same
dataset, or without one. `tfidf` and `linear` weight them by a router's prediction from the
preceding text, read after 8, 16, 32, ... tokens. `topK` mixes only the K experts with the largest
weights. `ensemble-label` uses the expert of each document's true domain, which is unknown in use:
it is a bound to compare with. `ensemble-random-split` combines as many experts of randomly dealt
documents in the same way. `dense` is one model trained with as many tokens as all experts together.
"""


@dataclasses.dataclass(frozen=True)
class Standing:
    """One model's or ensemble's place on a split; ``change`` is against the best single model."""

    average: AverageRow
    change: Estimate
    num_experts_run: int

    @property
    def name(self) -> str:
        """The model's key, or the ensemble's name."""
        return self.average.model

    @property
    def macro(self) -> Estimate:
        """Bits per byte, the mean of domains."""
        return self.average.macro


def standings(matrix: Matrix, split: str, *, num_experts: int) -> list[Standing]:
    """Return models and ensembles of one split, the best first; none where it has no text."""
    rows = [average for average in matrix.averages if average.split == split]
    if not rows:
        return []
    best = best_single(rows)
    found = [
        Standing(row, row.against(best), num_experts_run(row.model, num_experts)) for row in rows
    ]
    return sorted(found, key=lambda standing: standing.macro.value)


def best_single(averages: Sequence[AverageRow]) -> AverageRow:
    """Return the best row that is one model."""
    singles = [row for row in averages if not Family.ENSEMBLE.has(row.model)]
    return min(singles, key=lambda row: row.macro.value)


def write_ensemble_report(
    matrix: Matrix, folder: Path, *, num_experts: int, merged: Mapping[str, str]
) -> None:
    """Write ``ensemble.parquet``, ``ensemble_averages.parquet``, two charts and ``ensemble.md``.

    ``merged`` gives the label of each merged model that `glance` shows.

    Raises:
        ScoringError: there is nothing to judge by on the first split.

    """
    from mdel_assets.charts import to_png

    if matrix.splits[0] not in _judged_splits(matrix):
        raise ScoringError(
            f"Ensembles are judged on {matrix.splits[0]}, the first of evaluation.splits, but no "
            f"domain has text there that every model was scored on. Put a split with text first, "
            f"or materialize token_scores again."
        )
    runs = [num_experts_run(str(row["model"]), num_experts) for row in matrix.rows]
    table = rows_to_table(matrix.rows).append_column("num_experts_run", pa.array(runs, pa.int64()))
    pq.write_table(table, folder / "ensemble.parquet")
    pq.write_table(averages_table(matrix), folder / "ensemble_averages.parquet")
    text = ensemble_markdown(matrix, num_experts=num_experts)
    (folder / "ensemble.md").write_text(text, "utf-8")
    chart = ensemble_figure(matrix, num_experts=num_experts)
    (folder / "ensemble.png").write_bytes(to_png(chart))
    drawn = glance_of(matrix, num_experts=num_experts, merged=merged)
    (folder / "glance.png").write_bytes(to_png(drawn))


def _judged_splits(matrix: Matrix) -> list[str]:
    """Return the splits that models have averages on."""
    judged = {average.split for average in matrix.averages}
    return [split for split in matrix.splits if split in judged]


def ensemble_markdown(matrix: Matrix, *, num_experts: int) -> str:
    """Return the whole report."""
    header = _HEADER.format(over=matrix.over.strip() or "of a document bootstrap")
    parts = [header, matrix.intervals_in_words, ""]
    for split in matrix.splits:
        ranked = standings(matrix, split, num_experts=num_experts)
        if not ranked:
            parts += [f"## `{split}`", "", *(left_out(matrix, [split]) or ["No text."]), ""]
            continue
        rows = [["", "bits per byte", "95 % interval", "change", "runs"]]
        for standing in ranked:
            change, macro = standing.change, standing.macro
            rows.append(
                [
                    standing.name,
                    f"{macro.value:.4f}",
                    f"{macro.low:.3f} to {macro.high:.3f}",
                    change.marked(change.signed),
                    str(standing.num_experts_run),
                ]
            )
        parts += [f"## `{split}`", "", f"{total_label(matrix, split)}.", "", *as_markdown(rows), ""]
        lines = [*left_out(matrix, [split]), *too_few(matrix, [split])]
        lines += ensemble_findings(ranked)
        parts += [f"- {line}" for line in lines]
        parts.append("")
    return "\n".join(parts)


def ensemble_findings(ranked: Sequence[Standing]) -> list[str]:
    """Return sentences on a split: the ensemble chosen beforehand, the best, the cheapest.

    The best of many is partly luck; `POSTERIOR` was chosen before anything was measured.
    """
    usable = [s for s in ranked if s.name != LABEL]
    single = next(s for s in usable if not Family.ENSEMBLE.has(s.name))
    posterior = next(s for s in usable if s.name == POSTERIOR)
    close = [s for s in usable if not s.average.against(usable[0].average).is_worse]
    cheapest = min(close, key=lambda s: (s.num_experts_run, s.macro.value))
    against = verdict(posterior.change, than=f"`{single.name}`, the best single model")
    changes = {
        rival.name: posterior.average.against(rival.average)
        for rival in usable
        if rival.name in _RIVALS and rival.name != single.name
    }
    rest = [
        f"`{POSTERIOR}`: {verdict(change, than=f'`{name}`')}." for name, change in changes.items()
    ]
    doubt = "" if posterior.change.is_enough else f" ({TOO_FEW} to tell it from the next)"
    share = 100 * posterior.change.value / single.macro.value
    others = [
        f"`{s.name}`: {verdict(s.change, than=f'`{single.name}`')}; {_runs(s.num_experts_run)}"
        for s in usable
        if s.name in (ROUTED, RANDOM_SPLIT)
    ]
    return [
        f"`{POSTERIOR}`: {against}; that is {share:+.1f} %.",
        *others,
        *rest,
        f"Best of all: `{usable[0].name}`, {usable[0].macro.value:.4f} bits per byte{doubt}.",
        f"Cheapest to serve of those not clearly worse: `{cheapest.name}`, "
        + _runs(cheapest.num_experts_run)
        if posterior.change.is_enough
        else f"Cheapest to serve of those as good: {TOO_FEW} to tell.",
    ]


def _runs(count: int) -> str:
    return "one model runs per token." if count == 1 else f"{count} models run per token."


def ensemble_figure(matrix: Matrix, *, num_experts: int) -> Any:
    """Return the change against the best single model, with intervals.

    There is one panel for each split with text, all with one scale. A row says how many models run
    per token, if it is more than one.
    """
    from matplotlib.lines import Line2D

    from mdel_assets.charts import figure

    names = list(dict.fromkeys(average.model for average in matrix.averages))
    splits = _judged_splits(matrix)
    drawn = figure(width=2.9 + 2.1 * len(splits), height=1.6 + 0.2 * max(1, len(names)))
    all_axes = drawn.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axes, split in zip(all_axes, splits, strict=True):
        for standing in standings(matrix, split, num_experts=num_experts):
            place, change = names.index(standing.name), standing.change
            colour, _ = _kind(standing.name)
            axes.plot([change.low, change.high], [place, place], color=colour, linewidth=1.5)
            axes.plot([change.value], [place], "o", color=colour, markersize=5)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.tick_params(labelsize=7)
        axes.set_title(f"{split}\n{total_label(matrix, split)}", fontsize=8)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    all_axes[0].set_yticks(range(len(names)), [_with_price(name, num_experts) for name in names])
    all_axes[0].invert_yaxis()
    drawn.suptitle("Ensembles of experts and single models, mean of domains", fontsize=10)
    kinds = dict.fromkeys(_kind(name) for name in names)
    drawn.legend(
        handles=[Line2D([], [], marker="o", color=colour, label=label) for colour, label in kinds],
        title="bits per byte, change from the best single model of the split (left: better),\n"
        f"with 95 % intervals{matrix.over}; in brackets: models that run per token",
        loc="outside lower center",
        ncols=len(kinds),
        fontsize=7,
        title_fontsize=8,
        frameon=False,
    )
    return drawn


def _kind(name: str) -> tuple[str, str]:
    """Return the colour and the legend text for a row's kind."""
    if name == LABEL:
        return "tab:cyan", "each document's own expert (a bound)"
    if Family.ENSEMBLE.has(name):
        return "tab:blue", "ensemble"
    return "tab:gray", "single model"


def _with_price(name: str, num_experts: int) -> str:
    runs = num_experts_run(name, num_experts)
    return f"{name} ({runs})" if runs > 1 else name
