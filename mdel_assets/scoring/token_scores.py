"""Token scores on disk: their files, and how they are written.

`documents.parquet` holds every document once, even if several datasets share it: ``num_tokens``,
``num_bytes``, ``num_words``, ``nll_nats`` (a float64 sum) and the tokens' ``log_probabilities``
(fp32, natural logarithm). `cells.parquet` says which documents make up which (dataset, split).
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.temporary_columns import TemporaryColumn
from mdel_assets.errors import ScoringError

DOCUMENTS_NAME = "documents.parquet"
CELLS_NAME = "cells.parquet"
_ROWS_PER_GROUP = 4096
DOCUMENT_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("num_tokens", pa.int64()),
        ("num_bytes", pa.int64()),
        ("num_words", pa.int64()),
        ("nll_nats", pa.float64()),
        ("log_probabilities", pa.list_(pa.float32())),
    ]
)
CELL_SCHEMA = pa.schema(
    [("dataset", pa.string()), ("split", pa.string()), ("document_id", pa.string())]
)


def count_words(text: str) -> int:
    """Return the number of pieces between runs of whitespace, as lm-evaluation-harness counts."""
    return len(re.split(r"\s+", text))


@dataclasses.dataclass(frozen=True)
class DocumentSize:
    """A document's size in bytes and words, the units that figures are given per."""

    document_id: str
    num_bytes: int
    num_words: int

    @classmethod
    def of(cls, document_id: str, text: str) -> "DocumentSize":
        """Return the size of ``text``."""
        return cls(document_id, len(text.encode()), count_words(text))


def write_scores(
    folder: Path, tables: Iterable[pa.Table], cells: pa.Table, *, work_folder: Path
) -> tuple[int, int]:
    """Write the two files that make up a model's token scores; return documents and tokens.

    ``tables`` are of `DOCUMENT_SCHEMA`, in any order; their content is kept in ``work_folder``
    until it can be written in the order of ids. If a document comes twice, the first counts.
    """
    figures = []
    start_of: dict[str, int] = {}
    with TemporaryColumn(work_folder, np.float32) as values:
        for table in tables:
            for batch in table.to_batches():
                keys = batch.column("document_id").to_pylist()
                is_new = pa.array([key not in start_of for key in keys], pa.bool_())
                new = batch.filter(is_new)
                offsets = new.column("log_probabilities").offsets.to_numpy()
                own = new.column("log_probabilities").values.to_numpy()
                for key, offset in zip(new.column(0).to_pylist(), offsets, strict=False):
                    start_of[key] = len(values) + int(offset - offsets[0])
                values.append(own[offsets[0] : offsets[-1]])
                figures.append(new.drop_columns("log_probabilities"))
        schema = pa.schema(list(DOCUMENT_SCHEMA)[:-1])
        documents = pa.Table.from_batches(figures, schema).sort_by("document_id")
        with pq.ParquetWriter(
            folder / DOCUMENTS_NAME, DOCUMENT_SCHEMA, compression="zstd", use_dictionary=False
        ) as writer:
            for first in range(0, max(1, len(documents)), _ROWS_PER_GROUP):
                part = documents.slice(first, _ROWS_PER_GROUP)
                writer.write_table(_with_values(part, start_of, values))
    pq.write_table(cells, folder / CELLS_NAME, compression="zstd")
    return len(documents), int(pc.sum(documents.column("num_tokens")).as_py() or 0)


def _with_values(
    documents: pa.Table, start_of: Mapping[str, int], values: TemporaryColumn
) -> pa.Table:
    """Return documents with their log-probabilities, which begin in ``values`` where it says."""
    lengths = documents.column("num_tokens").to_pylist()
    keys = documents.column("document_id").to_pylist()
    parts = [
        values.read(start_of[key], start_of[key] + length)
        for key, length in zip(keys, lengths, strict=True)
    ]
    return documents.append_column(DOCUMENT_SCHEMA.field(5), _lists(parts)).cast(DOCUMENT_SCHEMA)


def documents_table(
    sizes: Sequence[DocumentSize], scores: Sequence[NDArray[np.float32]]
) -> pa.Table:
    """Return a table of `DOCUMENT_SCHEMA` for documents and their tokens' log-probabilities."""
    columns: list[Any] = [
        [size.document_id for size in sizes],
        [len(score) for score in scores],
        [size.num_bytes for size in sizes],
        [size.num_words for size in sizes],
        [-float(score.sum(dtype=np.float64)) for score in scores],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENT_SCHEMA, strict=False)]
    return pa.Table.from_arrays([*arrays, _lists(scores)], schema=DOCUMENT_SCHEMA)


def _lists(scores: Sequence[NDArray[np.float32]]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(score) for score in scores])])
    values = pa.array(np.concatenate([np.empty(0, np.float32), *scores]), pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def prefix_token_id(tokenizer: Any, name: str) -> int:
    """Return the id of the token that opens a document's first window (``eos`` or ``bos``)."""
    found = tokenizer.eos_token_id if name == "eos" else tokenizer.bos_token_id
    if found is None:
        raise ScoringError(
            f"The tokenizer has no {name} token for the start of the first window. Set "
            f"evaluation.prefix_token to the other of 'eos' and 'bos'."
        )
    return int(found)


def refuse_short_context(model: Any, max_length: int) -> None:
    """Refuse windows longer than the model's context."""
    from mdel_assets.training.model_files import num_positions

    limit = num_positions(model.config)
    if limit and limit < max_length:
        raise ScoringError(
            f"evaluation.max_length is {max_length}, but the model reads at most {limit} tokens. "
            f"Lower evaluation.max_length."
        )
