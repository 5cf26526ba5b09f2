"""The verdict in words: what the experiment says, what its interval holds, and what it does not."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.evaluation.ensemble_record import EnsembleRecord
from mdel_assets.evaluation.findings import findings, rivals, verdict
from mdel_assets.evaluation.matrix import Matrix
from mdel_assets.experiment.model_keys import DENSE, POSTERIOR, SEED, Family
from mdel_assets.line.lineage import Lineage

# By the words that a verdict begins with (`findings.verdict`).
_TOGETHER = {
    "better": "The experts together beat the best single model.",
    "worse": "The best single model beats the experts together.",
    "no clear difference": "The experts together and the best single model are about as good.",
    "too few": "There is too little held-out text for a verdict on the experts together.",
}
_ALONE = {
    "better": "{best} is the best single model: it beats {rival}.",
    "worse": "{best} is the best single model, and {rival} beats it.",
    "no clear difference": "{best} is the best single model, about as good as {rival}.",
    "too few": "There is too little held-out text to tell {best} from {rival}.",
}

# The chart of averages says these.
_ON_AVERAGE = "on average over domains: "


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``headline`` says who wins; ``evidence`` by how much, with the interval.

    ``together`` and ``single`` are all findings; ``intervals`` says what intervals hold. Words in
    backticks are names.
    """

    headline: str
    evidence: str
    intervals: str
    together: Sequence[str]
    single: Sequence[str]


def verdict_of(lineage: Lineage, matrix: Matrix) -> Verdict:
    """Return the verdict on ensembles where they were judged, else on single models."""
    *found, intervals = findings(matrix)
    single = [line for line in found if _ON_AVERAGE not in line]
    report = lineage.artifact("ensemble_report")
    record = report.read_record() if "ensemble_report" in lineage.kinds() else None
    ensembles = EnsembleRecord.of(record) if record else None
    together = list(ensembles.findings) if ensembles else []
    if ensembles and together:
        told = together[0].removeprefix(f"`{POSTERIOR}`: ")
        headline = _headline(_TOGETHER, told)
        evidence = f"All {ensembles.num_experts} experts together (`{POSTERIOR}`): {told}"
    else:
        headline, evidence = _alone(matrix)
    return Verdict(headline, evidence, intervals, together, single)


def _alone(matrix: Matrix) -> tuple[str, str]:
    """Return headline and evidence where experts were not judged together."""
    split = matrix.splits[0]
    rows = [a for a in matrix.averages if a.split == split and not Family.REFERENCE.has(a.model)]
    if not rows:
        return "No model has a figure yet.", "Nothing was scored."
    best = min(rows, key=lambda row: row.macro.value)
    others = {row.model: row for row in rows if row.model != best.model}
    rival = next((name for name in (DENSE, *rivals(matrix)) if name in others), None)
    if rival is None:
        return "Only the seed was judged.", f"`{best.model}`: {best.macro.value:.4f} bits per byte."
    than = "the seed" if rival == SEED else f"`{rival}`"
    told = verdict(best.against(others[rival]), than=than)
    headline = _headline(_ALONE, told).format(best=f"`{best.model}`", rival=than)
    return headline, f"`{best.model}` on average: {told}."


def _headline(headlines: dict[str, str], told: str) -> str:
    return next(words for start, words in headlines.items() if told.startswith(start))
