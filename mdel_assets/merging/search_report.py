"""The report of a search: its answer on test text, and a chart of its trials."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.merging.search import MEAN_START, SEED_START
from mdel_assets.merging.trials import Trial
from mdel_assets.scoring.estimates import TOO_FEW, Estimate, documents_behind
from mdel_assets.scoring.markdown_table import as_markdown
from mdel_assets.scoring.perplexity import Cell, interval


@dataclasses.dataclass(frozen=True)
class Change(Estimate):
    """The searched merge's bits per byte minus a rival's, with a paired 95 % interval.

    Both are measured on the same documents, and the bootstrap resamples them together.
    """

    rival: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One test split: bits per byte of each model, as the mean over domains, and the changes.

    ``domains`` maps a domain to each model's bits per byte on it.
    """

    split: str
    num_documents: int
    bits_per_byte: Mapping[str, float]
    changes: Sequence[Change]
    domains: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Verdict":
        """Return what a record holds; a change without a number of documents has the verdict's."""
        number = {"num_documents": content["num_documents"]}
        return cls(**{**content, "changes": [Change(**number | c) for c in content["changes"]]})


def judge(
    cells: Mapping[str, Sequence[Cell]], *, evaluation: Evaluation, ours: str
) -> list[Verdict]:
    """Return a verdict for each split with text; ``cells`` are in the order of the models."""
    verdicts = []
    for split in evaluation.splits:
        own = {
            name: [cell for cell in found if cell.split == split and cell.num_bytes_D.sum()]
            for name, found in cells.items()
        }
        if not own[ours]:
            continue
        draws = {
            name: np.mean([_samples(cell, evaluation) for cell in found], axis=0)
            for name, found in own.items()
        }
        bits = {name: float(np.mean([_bits(c) for c in found])) for name, found in own.items()}
        sizes = [len(cell.document_ids) for cell in own[ours]]
        behind = documents_behind(sizes)
        changes = [
            Change(bits[ours] - bits[rival], *interval(draws[ours] - draws[rival]), behind, rival)
            for rival in cells
            if rival != ours
        ]
        domains = {
            cell.dataset: {name: _bits(found[place]) for name, found in own.items()}
            for place, cell in enumerate(own[ours])
        }
        verdicts.append(Verdict(split, sum(sizes), bits, changes, domains))
    return verdicts


def _bits(cell: Cell) -> float:
    return float(cell.bits_per_byte or 0.0)


def _samples(cell: Cell, evaluation: Evaluation) -> Any:
    return cell.samples(num_samples=evaluation.num_bootstrap_samples, seed=evaluation.seed)


def search_markdown(
    title: str, *, best: Trial, trials: Sequence[Trial], verdicts: Sequence[Verdict]
) -> str:
    """Return the report as Markdown."""
    starts = [t for t in trials if t.origin not in ("step", "surrogate")]
    rows = [["Trial", "bits per byte on the validation subsample"]]
    rows += [[trial.origin, _shown(trial.bits_per_byte)] for trial in starts]
    rows.append([f"best of {len(trials)} trials ({best.origin})", _shown(best.bits_per_byte)])
    parts = [f"# Searched merge: {title}", "", *as_markdown(rows), ""]
    for verdict in verdicts:
        names = list(verdict.bits_per_byte)
        table = [[f"Bits per byte, {verdict.split}", *names]]
        table += [
            [domain, *(f"{bits[name]:.4f}" for name in names)]
            for domain, bits in verdict.domains.items()
        ]
        table.append(["mean", *(f"{verdict.bits_per_byte[name]:.4f}" for name in names)])
        parts += [*as_markdown(table), ""]
        parts += [f"- {sentence(verdict, change)}" for change in verdict.changes]
        parts.append("")
    if not verdicts:
        parts += ["There is no test text to judge by.", ""]
    return "\n".join(parts)


def sentence(verdict: Verdict, change: Change) -> str:
    """Return a sentence that compares the searched merge with a rival."""
    word = "better than" if change.is_better else "worse than" if change.is_worse else "as good as"
    if not change.is_enough:
        word = f"{TOO_FEW} to compare with"
    return (
        f"`{verdict.split}`, {verdict.num_documents} documents: {word} the {change.rival}, "
        f"{change.value:+.4f} bits per byte {change.bounds}."
    )


def trials_figure(trials: Sequence[Trial], *, title: str) -> Any:
    """Return a figure of every trial and the best so far, with the seed and the mean."""
    from mdel_assets.charts import figure

    drawn = figure(width=6.4, height=3.4)
    axes = drawn.add_subplot()
    kinds = {"starting point": [], "step": [], "surrogate": []}  # type: dict[str, list[Trial]]
    for trial in trials:
        kinds[trial.origin if trial.origin in kinds else "starting point"].append(trial)
    for (kind, own), marker in zip(kinds.items(), "s^o", strict=True):
        values = [trial.bits_per_byte for trial in own]
        axes.plot([trial.number + 1 for trial in own], values, marker, label=kind, markersize=4)
    best = np.minimum.accumulate([trial.bits_per_byte for trial in trials])
    axes.step([t.number + 1 for t in trials], best, where="post", label="best so far", color="0.4")
    levels = {t.origin: t.bits_per_byte for t in trials if math.isfinite(t.bits_per_byte)}
    shown = [levels[name] for name in (SEED_START, MEAN_START) if name in levels]
    for name, style in ((SEED_START, ":"), (MEAN_START, "--")):
        if name in levels:
            axes.axhline(levels[name], linestyle=style, color="0.6", label=name, linewidth=1)
    # An overshooting sum would squeeze everything else into one line.
    low, high = float(best[-1]), max([*shown, float(best[0])])
    room = 0.1 * (high - low) or 0.01
    axes.set_ylim(low - room, high + room)
    axes.set(xlabel="trial", ylabel="bits per byte, mean over domains", title=title)
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside lower center", ncols=3, fontsize=7)
    return drawn


def _shown(bits: float) -> str:
    return f"{bits:.4f}" if math.isfinite(bits) else "not finite"
