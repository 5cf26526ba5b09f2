"""Token scores on disk: what they hold, and which documents they are of.

`documents.parquet` holds every document once, however many datasets share it: ``num_tokens``,
``num_bytes``, ``num_words``, ``nll_nats`` (a float64 sum) and the tokens' ``log_probabilities``
(fp32, natural logarithm). `cells.parquet` says which documents make up which (dataset, split).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.document_index import salted_hash
from mdel_assets.errors import ScoringError
from mdel_assets.experiment_fields import Evaluation

DOCUMENTS_NAME = "documents.parquet"
CELLS_NAME = "cells.parquet"
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


def evaluation_documents(
    datasets: Mapping[str, Path], evaluation: Evaluation
) -> tuple[dict[str, str], pa.Table]:
    """Return texts by document id, and the table of cells, each in the order of ids."""
    texts: dict[str, str] = {}
    cells = []
    for dataset, folder in datasets.items():
        for split in evaluation.splits:
            table = pq.read_table(folder / f"{split}.parquet", columns=["document_id", "text"])
            ids = table.column("document_id").to_pylist()
            chosen = sorted(_sample(ids, evaluation))
            rows = {key: row for row, key in enumerate(ids)}
            texts |= {key: table.column("text")[rows[key]].as_py() for key in chosen}
            columns = [[dataset] * len(chosen), [split] * len(chosen), chosen]
            arrays = [pa.array(column, pa.string()) for column in columns]
            cells.append(pa.Table.from_arrays(arrays, schema=CELL_SCHEMA))
    return texts, pa.concat_tables(cells) if cells else CELL_SCHEMA.empty_table()


def _sample(ids: list[str], evaluation: Evaluation) -> list[str]:
    """Return ``max_documents`` of ``ids``, those with the lowest seeded hash."""
    if len(ids) <= evaluation.max_documents:
        return ids
    numbers = np.array([[int(key[:16], 16), int(key[16:], 16)] for key in ids], np.uint64)
    ranks = salted_hash(numbers, salt=f"evaluation:{evaluation.seed}")
    return [ids[i] for i in np.argsort(ranks, kind="stable")[: evaluation.max_documents]]


def kept_documents(previous: Path | None, *, wanted: Collection[str]) -> pa.Table:
    """Return the documents of an earlier run that are among ``wanted``."""
    if previous is None:
        return DOCUMENT_SCHEMA.empty_table()
    table = pq.read_table(previous / DOCUMENTS_NAME, schema=DOCUMENT_SCHEMA)
    return table.filter(
        pc.is_in(table.column("document_id"), pa.array(sorted(wanted), pa.string()))
    )


def write_scores(folder: Path, documents: pa.Table, cells: pa.Table) -> None:
    """Write the two files that make up a model's token scores."""
    pq.write_table(
        documents.sort_by("document_id"),
        folder / DOCUMENTS_NAME,
        compression="zstd",
        row_group_size=4096,
        use_dictionary=False,
    )
    pq.write_table(cells, folder / CELLS_NAME, compression="zstd")


def documents_table(
    documents: Sequence[tuple[str, str]], scores: Sequence[NDArray[np.float32]]
) -> pa.Table:
    """Return a table of `DOCUMENT_SCHEMA` for (id, text) pairs and their log-probabilities."""
    columns: list[Any] = [
        [key for key, _ in documents],
        [len(score) for score in scores],
        [len(text.encode()) for _, text in documents],
        [count_words(text) for _, text in documents],
        [-float(score.sum(dtype=np.float64)) for score in scores],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENT_SCHEMA, strict=False)]
    offsets = np.concatenate([[0], np.cumsum([len(score) for score in scores])])
    values = pa.array(np.concatenate([np.empty(0, np.float32), *scores]), pa.float32())
    arrays.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values))
    return pa.Table.from_arrays(arrays, schema=DOCUMENT_SCHEMA)


def prefix_token_id(tokenizer: Any, name: str) -> int:
    """Return the id of the token that opens a document's first window (``eos`` or ``bos``)."""
    found = tokenizer.eos_token_id if name == "eos" else tokenizer.bos_token_id
    if found is None:
        raise ScoringError(
            f"The tokenizer has no {name} token to open the first window with. Set "
            f"evaluation.prefix_token to the other of 'eos' and 'bos'."
        )
    return int(found)


def refuse_short_context(model: Any, max_length: int) -> None:
    """Refuse windows longer than what the model reads."""
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit and limit < max_length:
        raise ScoringError(
            f"evaluation.max_length is {max_length}, but the model reads {limit} tokens at most. "
            f"Lower evaluation.max_length."
        )
