"""The perplexity matrix as JSON: every figure of the tables, and the findings in sentences."""

import dataclasses
from typing import TYPE_CHECKING, Any

from mdel_assets.evaluation.findings import findings

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix


def matrix_as_json(matrix: "Matrix") -> dict[str, Any]:
    """Return the matrix as JSON has it: ``rows`` are its cells, ``averages`` those over domains.

    Figures are in bits per byte, where a row's name does not say otherwise. A figure of a cell
    without text is null.
    """
    averages = [
        {
            "model": average.model,
            "split": average.split,
            "macro": dataclasses.asdict(average.macro),
            "micro": average.micro,
            "change_from_seed": dataclasses.asdict(average.change),
        }
        for average in matrix.averages
    ]
    return {
        "models": matrix.models,
        "datasets": matrix.datasets,
        "splits": matrix.splits,
        "num_trainings": matrix.num_trainings,
        "rows": matrix.rows,
        "averages": averages,
        "missing": matrix.missing,
        "legend": dict(matrix.legend),
        "notes": list(matrix.notes),
        "findings": findings(matrix),
    }
