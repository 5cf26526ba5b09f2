"""Perplexity, in words and then in code.

Over a set of documents, with every token scored exactly once:

- ``nll_nats``: the sum over all tokens of minus the natural logarithm of their probability;
- ``perplexity``: e to the power of ``nll_nats`` per token. It depends on the tokenizer;
- ``bits_per_byte``: ``nll_nats`` per UTF-8 byte of the documents, in bits (divided by ln 2).
  Comparable between tokenizers; the figure to judge by;
- ``byte_perplexity``, ``word_perplexity``: e to the power of ``nll_nats`` per byte and per word.

Intervals are 95 % percentile intervals of a document bootstrap: documents are drawn with
replacement and the ratio of sums is computed for each draw. The draws depend only on the seed and
the cell, so two models are always compared on the same draws: their difference is paired.

Text of other domains (the splits ``*_pile``) has a Bayesian bootstrap instead, because several
domains hold the same documents there: each document has an exponentially distributed weight, with
mean 1, which depends only on the seed, the document and the draw. So what two domains share weighs
the same for both, and a mean over domains has the interval of the documents that it is really of.

Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13; Rubin
1981, "The Bayesian Bootstrap".
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mdel_assets.data.document_index import numbered_hashes
from mdel_assets.experiment.evaluation import shares_documents
from mdel_assets.scoring.report_rows import Measures, ReportRow
from mdel_assets.scoring.token_scores import CELLS_NAME, DOCUMENTS_NAME

_DRAWS_PER_STEP = 50
# A uniform 64-bit number tells of this many draws how much a document weighs there.
_DRAWS_PER_HASH = 4
SAMPLES_SCHEMA = pa.schema(
    [("dataset", pa.string()), ("split", pa.string()), ("samples", pa.list_(pa.float64()))]
)
_DOCUMENT_COLUMNS = ["document_id", "num_tokens", "num_bytes", "num_words", "nll_nats"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model on one split of one dataset: D documents, in the order of their ids.

    ``drawn`` are the bootstrap's figures, if they were computed before.
    """

    dataset: str
    split: str
    document_ids: list[str]
    num_tokens_D: NDArray[np.int64]
    num_bytes_D: NDArray[np.int64]
    num_words_D: NDArray[np.int64]
    nll_nats_D: NDArray[np.float64]
    drawn: NDArray[np.float64] | None = None

    def samples(self, *, num_samples: int, seed: int) -> NDArray[np.float64]:
        """Return ``bits_per_byte`` of ``num_samples`` bootstrap draws of this cell's documents."""
        if self.drawn is not None:
            return self.drawn
        return bootstrap_bits_per_byte(
            self.nll_nats_D,
            self.num_bytes_D,
            num_samples=num_samples,
            seed=seed,
            name=f"{self.dataset}/{self.split}",
            shared_ids=self.shared_ids,
        )

    @property
    def shared_ids(self) -> list[str] | None:
        """The documents' ids, if other domains' cells may hold some of the same documents."""
        return self.document_ids if shares_documents(self.split) else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte; None without text."""
        num_bytes = int(self.num_bytes_D.sum())
        return float(self.nll_nats_D.sum()) / num_bytes / math.log(2) if num_bytes else None


def read_cells(scores_folder: Path) -> list[Cell]:
    """Return the cells that a token-scores folder holds."""
    documents = pq.read_table(scores_folder / DOCUMENTS_NAME, columns=_DOCUMENT_COLUMNS)
    return cells_of(documents, pq.read_table(scores_folder / CELLS_NAME))


def cells_of(documents: pa.Table, table: pa.Table) -> list[Cell]:
    """Return the cells of ``table`` (`CELL_SCHEMA`), with the figures of their ``documents``."""
    row_of = {key: row for row, key in enumerate(documents.column("document_id").to_pylist())}
    arrays = [documents.column(name).to_numpy() for name in _DOCUMENT_COLUMNS[1:]]
    members: dict[tuple[str, str], list[str]] = {}
    for cell in table.to_pylist():
        members.setdefault((cell["dataset"], cell["split"]), []).append(cell["document_id"])
    cells = []
    for (dataset, split), ids in members.items():
        rows = np.array([row_of[key] for key in ids], np.int64)
        cells.append(Cell(dataset, split, ids, *(array[rows] for array in arrays)))
    return cells


def with_samples(cells: Sequence[Cell], *, num_samples: int, seed: int) -> list[Cell]:
    """Return the cells with the figures of their bootstrap."""
    return [
        dataclasses.replace(cell, drawn=cell.samples(num_samples=num_samples, seed=seed))
        if cell.num_bytes_D.sum()
        else cell
        for cell in cells
    ]


def samples_table(cells: Sequence[Cell]) -> pa.Table:
    """Return the bootstrap's figures of cells that have some, for `samples_from`."""
    kept = [cell for cell in cells if cell.drawn is not None]
    columns = [
        [cell.dataset for cell in kept],
        [cell.split for cell in kept],
        [cell.drawn for cell in kept],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SAMPLES_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SAMPLES_SCHEMA)


def samples_from(table: pa.Table, cells: Sequence[Cell]) -> list[Cell]:
    """Return ``cells`` with the figures that `samples_table` kept of them."""
    columns = (table.column(name) for name in SAMPLES_SCHEMA.names)
    datasets, splits, drawn = columns
    found = {
        (dataset, split): samples.values.to_numpy()
        for dataset, split, samples in zip(
            datasets.to_pylist(), splits.to_pylist(), drawn, strict=True
        )
    }
    return [
        dataclasses.replace(cell, drawn=found.get((cell.dataset, cell.split))) for cell in cells
    ]


def perplexity_row(
    cell: Cell,
    *,
    model: str,
    max_length: int,
    model_fingerprint: str,
    dataset_fingerprint: str,
    num_samples: int,
    seed: int,
) -> ReportRow:
    """Return one row of ``reports/perplexity/<model>.jsonl``; figures are None without text."""
    tokens, size, words = _sizes(cell)
    figures = measures(cell)
    low = high = None
    if size:
        samples = cell.samples(num_samples=num_samples, seed=seed)
        low, high = interval(samples)
    return {
        "model": model,
        "dataset": cell.dataset,
        "split": cell.split,
        "num_documents": len(cell.document_ids),
        "num_tokens": tokens,
        "num_bytes": size,
        "num_words": words,
        **figures,
        "bits_per_byte_low": low,
        "bits_per_byte_high": high,
        "max_length": max_length,
        "model_fingerprint": model_fingerprint,
        "dataset_fingerprint": dataset_fingerprint,
    }


def measures(cell: Cell) -> Measures:
    """Return what this module defines, of one cell."""
    nll = float(cell.nll_nats_D.sum())
    tokens, size, words = _sizes(cell)
    return {
        "nll_nats": nll,
        "perplexity": _exponential(nll, tokens),
        "bits_per_byte": cell.bits_per_byte,
        "byte_perplexity": _exponential(nll, size),
        "word_perplexity": _exponential(nll, words),
    }


def _sizes(cell: Cell) -> tuple[int, int, int]:
    """Return the numbers of tokens, bytes and words."""
    tokens, size, words = (
        int(counts.sum()) for counts in (cell.num_tokens_D, cell.num_bytes_D, cell.num_words_D)
    )
    return tokens, size, words


def bootstrap_bits_per_byte(
    nll_nats_D: NDArray[np.float64],
    num_bytes_D: NDArray[np.int64],
    *,
    num_samples: int,
    seed: int,
    name: str,
    shared_ids: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Return bits per byte of ``num_samples`` draws of D documents with replacement.

    The draws depend on ``seed``, ``name`` and D alone; with ``shared_ids``, the ids of documents
    that other figures are of, too, on ``seed`` and the ids. A draw without any byte gives NaN.
    """
    if shared_ids is not None:
        sums = [
            weights @ np.column_stack([nll_nats_D, num_bytes_D])
            for weights in shared_draws(shared_ids, num_samples=num_samples, seed=seed)
        ]
        nats, sizes = np.concatenate(sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(nats / sizes / math.log(2))
    found = np.empty(num_samples, np.float64)
    first = 0
    for chosen in document_draws(len(nll_nats_D), num_samples=num_samples, seed=seed, name=name):
        with np.errstate(invalid="ignore", divide="ignore"):
            found[first : first + len(chosen)] = (
                nll_nats_D[chosen].sum(axis=1) / num_bytes_D[chosen].sum(axis=1) / math.log(2)
            )
        first += len(chosen)
    return found


def document_draws(
    num_documents: int, *, num_samples: int, seed: int, name: str
) -> Iterator[NDArray[np.int64]]:
    """Yield the documents of ``num_samples`` draws with replacement, some draws at a time.

    Each array is (draws, num_documents) numbers of documents.
    """
    draw = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(name.encode())])
    for first in range(0, num_samples, _DRAWS_PER_STEP):
        steps = min(_DRAWS_PER_STEP, num_samples - first)
        yield draw.integers(0, num_documents, (steps, num_documents))


def shared_draws(
    document_ids: Sequence[str], *, num_samples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Yield how much each document weighs in ``num_samples`` draws, some draws at a time.

    Each array is (draws, documents) weights.
    """
    keys = [xxhash.xxh3_64_intdigest(key.encode(), seed) for key in document_ids]
    keys_D = np.array(keys, np.uint64)
    weight_of = -np.log((np.arange(2**16) + 0.5) / 2**16)
    step = _DRAWS_PER_HASH * (_DRAWS_PER_STEP // _DRAWS_PER_HASH)
    for first in range(0, num_samples, step):
        numbers = np.arange(first, first + step, _DRAWS_PER_HASH, dtype=np.uint64)
        hashes = numbered_hashes(keys_D, numbers).astype("<u8", copy=False)
        pieces = hashes.view("<u2").reshape(len(numbers), len(keys_D), _DRAWS_PER_HASH)
        weights = weight_of[pieces.transpose(0, 2, 1)].reshape(-1, len(keys_D))
        yield weights[: num_samples - first]


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles."""
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return float(low), float(high)


def rows_to_table(
    rows: list[dict[str, str | int | float | None]], *, names: Sequence[str] = ()
) -> pa.Table:
    """Return rows as an Arrow table, figures as float64 even where all are None.

    ``names`` are its columns where there may be no row.
    """
    texts = {"model", "dataset", "split", "model_fingerprint", "dataset_fingerprint"}
    names = names or list(rows[0])
    fields = [
        pa.field(
            name,
            pa.string()
            if name in texts
            else pa.bool_()
            if name.startswith("is_")
            else pa.int64()
            if name.startswith("num_") or name == "max_length"
            else pa.float64(),
        )
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _exponential(nll: float, count: int) -> float | None:
    if not count:
        return None
    try:
        return math.exp(nll / count)
    except OverflowError:
        return math.inf
