"""The amount of text behind figures, in words, and sentences about what has too little, or none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdel_assets.experiment.evaluation import MIN_DOCUMENTS
from mdel_assets.experiment.model_keys import SEED

if TYPE_CHECKING:
    from mdel_assets.evaluation.matrix import Matrix

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size_rows(matrix: "Matrix", split: str, *, num_rest: int) -> list[list[str]]:
    """Return the rows of documents and of bytes below a table with a column for each dataset.

    ``num_rest`` columns follow those of the datasets.
    """
    sizes = [matrix.size(dataset, split) for dataset in matrix.datasets]
    rest = [""] * num_rest
    return [
        ["documents", *(_count(number) for number, _ in sizes), *rest],
        ["text", *(bytes_in_words(size) for _, size in sizes), *rest],
    ]


def size_label(matrix: "Matrix", dataset: str, split: str) -> str:
    """Return the label below a dataset's name in a picture, like ``50 documents, 102 kB``."""
    number, size = matrix.size(dataset, split)
    return f"{number:,} documents, {bytes_in_words(size)}{_warning(number)}"


def total_label(matrix: "Matrix", split: str) -> str:
    """Return the same of a split as a whole."""
    numbers, sizes = zip(*(matrix.size(d, split) for d in matrix.datasets), strict=True)
    return f"{sum(numbers):,} documents, {bytes_in_words(sum(sizes))}{_warning(min(numbers))}"


def too_few(matrix: "Matrix", splits: Sequence[str]) -> list[str]:
    """Return one sentence for each split with datasets that are too small for a verdict."""
    lines = []
    for split in splits:
        numbers = {dataset: matrix.size(dataset, split)[0] for dataset in matrix.datasets}
        few = [f"`{d}` has {number}" for d, number in numbers.items() if 0 < number < MIN_DOCUMENTS]
        if few:
            lines.append(
                f"Too few documents for a verdict on `{split}`, which needs {MIN_DOCUMENTS}: "
                f"{', '.join(few)}. Hold out more text."
            )
    return lines


def left_out(matrix: "Matrix", splits: Sequence[str]) -> list[str]:
    """Return one sentence for each domain with text that some models have no figure of."""
    lines = []
    for split in splits:
        scored = {SEED, *(model for model, _, other in matrix.bits if other == split)}
        compared = matrix.compared(split)
        for dataset in matrix.datasets:
            lacking = {model for model in scored if (model, dataset, split) not in matrix.bits}
            if dataset not in compared and lacking != scored:
                named = ", ".join(f"`{model}`" for model in matrix.models if model in lacking)
                lines.append(
                    f"`{dataset}` is left out of comparisons on `{split}`: no figure of {named}."
                )
    return lines


def bytes_in_words(number: int) -> str:
    """Return a number of bytes to three figures, like ``102 kB``."""
    value, unit = float(number), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"


def _count(number: int) -> str:
    return f"{number:,}{_warning(number)}"


def _warning(number: int) -> str:
    return " (too few)" if 0 < number < MIN_DOCUMENTS else ""
