"""The figures on a card: the model's perplexities, compared with seed, mean and dense baselines.

Figures of an older version of a model or dataset are left out.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.model_keys import SEED, Family
from mdel_assets.line.lineage import Lineage
from mdel_assets.scoring.report_rows import ReportRow, rows_of

_log = logging.getLogger(__name__)
CHART_NAME = "perplexity.png"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Rows of reports by model: the card's own model first, then the models to compare with."""

    model: str
    rows: Mapping[str, Sequence[ReportRow]]

    @property
    def own(self) -> Sequence[ReportRow]:
        """The rows of the card's own model; empty if it was not measured."""
        return self.rows.get(self.model, ())

    @property
    def others(self) -> list[str]:
        """The other models with figures."""
        return [key for key in self.rows if key != self.model]

    def bits(self, model: str, row: ReportRow) -> float | None:
        """Return the bits per byte of ``model`` on the text of ``row``."""
        for other in self.rows.get(model, ()):
            if (other["dataset"], other["split"]) == (row["dataset"], row["split"]):
                return other["bits_per_byte"]
        return None


def read_figures(lineage: Lineage, model_key: str, *, first: str | None = None) -> Figures:
    """Return the figures for a model's card; those on the dataset ``first`` come first."""
    wanted = [model_key, SEED, *mean_models(lineage.experiment), *lineage.experiment.dense_keys]
    rows = {key: found for key in dict.fromkeys(wanted) if (found := _current_rows(lineage, key))}
    if model_key not in rows:
        _log.warning("%s has no current report: its card shows no perplexity", model_key)
    ordered = {
        key: sorted(found, key=lambda row: row["dataset"] != first) for key, found in rows.items()
    }
    return Figures(model_key, ordered)


def mean_models(experiment: Experiment) -> list[str]:
    """Return the merged models that are the plain mean of all experts."""
    found = []
    for name, recipe in experiment.merges.items():
        if recipe.merge_method != "linear" or recipe.base:
            continue
        # Equal weights are written as 1, in a single entry for every expert.
        if [entry.model for entry in recipe.models] == ["expert:*"]:
            found.append(Family.MERGED.key(name))
    return found


def _current_rows(lineage: Lineage, model_key: str) -> list[ReportRow]:
    report = lineage.artifact("perplexity_report", model_key).read_record()
    model = lineage.model(model_key).read_record()
    if report is None or model is None:
        return []
    fingerprints = {
        key: record.fingerprint
        for key in lineage.experiment.domain_keys
        if (record := lineage.artifact("domain_dataset", key).read_record())
    }
    return [
        row
        for row in rows_of(report)
        if row["bits_per_byte"] is not None
        and row["model_fingerprint"] == model.fingerprint
        and row["dataset_fingerprint"] == fingerprints.get(row["dataset"])
    ]


def figures_markdown(figures: Figures) -> str:
    """Return the card's section with table and chart."""
    if not figures.own:
        return "It was not measured.\n"
    others = figures.others
    names = "".join(f" {name} |" for name in others)
    lines = [
        f"| text | perplexity | bits per byte | 95 % interval |{names}",
        "|---|---|---|---|" + "---|" * len(others),
    ]
    for row in figures.own:
        compared = "".join(f" {_figure(figures.bits(name, row))} |" for name in others)
        lines.append(
            f"| `{row['dataset']}`, {row['split']} | {row['perplexity']:.4g} "
            f"| {_figure(row['bits_per_byte'])} "
            f"| {_figure(row['bits_per_byte_low'])} to {_figure(row['bits_per_byte_high'])} "
            f"|{compared}"
        )
    explained = (
        f"Columns to the right are bits per byte of other models on the same text: "
        f"{', '.join(f'`{name}`' for name in others)}. Lower is better. "
        if others
        else ""
    )
    context = figures.own[0]["max_length"]
    closing = (
        f"{explained}Perplexity is per token, with at most {context} tokens of context; intervals "
        f"come from a bootstrap over documents."
    )
    picture = f"\n\n![Change against the seed]({CHART_NAME})" if draw_chart(figures) else ""
    return "\n".join(lines) + f"\n\n{closing}{picture}\n"


def draw_chart(figures: Figures) -> bytes | None:
    """Return a PNG of the model's change from the seed on every text; None without either."""
    from mdel_assets.charts import bar_chart, to_png

    changes = {}
    for row in figures.own:
        bits, seed = row["bits_per_byte"], figures.bits(SEED, row)
        if bits is not None and seed is not None and figures.model != SEED:
            changes[f"{row['dataset']}, {row['split']}"] = bits - seed
    if not changes:
        return None
    label = "change in bits per byte from the seed (lower is better)"
    return to_png(bar_chart(changes, x_label=label, title=figures.model))


def model_index(name: str, figures: Figures, *, datasets: Mapping[str, str]) -> list[Any]:
    """Return the card's machine-readable results; ``datasets`` maps domains to repositories."""
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {
                "type": datasets.get(row["dataset"], row["dataset"]),
                "name": row["dataset"],
                "split": row["split"],
            },
            "metrics": [
                {"type": "perplexity", "name": "Perplexity", "value": row["perplexity"]},
                {"type": "bits_per_byte", "name": "Bits per byte", "value": row["bits_per_byte"]},
            ],
        }
        for row in figures.own
    ]
    return [{"name": name, "results": results}] if results else []


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
