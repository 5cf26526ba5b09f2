"""Token scores: one model, one load, every evaluation document once.

A document that several datasets share is scored once. `documents.parquet` holds, per document,
``num_tokens``, ``num_bytes``, ``num_words``, ``nll_nats`` (a float64 sum) and the tokens'
``log_probabilities`` (fp32, natural logarithm); `cells.parquet` says which documents make up which
(dataset, split). Documents that an earlier run scored with the same model and settings are kept.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdel_assets.data.document_index import salted_hash
from mdel_assets.errors import ScoringError
from mdel_assets.experiment_fields import Evaluation

_log = logging.getLogger(__name__)
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
_TOKENIZED_PER_CALL = 256


@dataclasses.dataclass(frozen=True)
class ScoringResult:
    """How much was scored anew and how much was kept."""

    num_documents: int
    num_tokens: int
    num_documents_scored_now: int


def score_model(
    model_folder: Path,
    folder: Path,
    *,
    datasets: Mapping[str, Path],
    evaluation: Evaluation,
    previous: Path | None = None,
) -> ScoringResult:
    """Write ``documents.parquet`` and ``cells.parquet`` into ``folder``.

    ``datasets`` maps domains to dataset folders. ``previous`` is a folder that this function wrote
    for the same model and settings, perhaps with other datasets.

    Raises:
        ScoringError: the tokenizer lacks the prefix token, or the model gives no finite numbers.

    """
    texts, cells = _evaluation_documents(datasets, evaluation)
    kept = _kept(previous, wanted=set(texts))
    missing = sorted(set(texts) - set(kept.column("document_id").to_pylist()))
    scored = score_documents(model_folder, [(key, texts[key]) for key in missing], evaluation)
    table = pa.concat_tables([kept, scored]).sort_by("document_id")
    pq.write_table(
        table,
        folder / DOCUMENTS_NAME,
        compression="zstd",
        row_group_size=4096,
        use_dictionary=False,
    )
    pq.write_table(cells, folder / CELLS_NAME, compression="zstd")
    return ScoringResult(
        num_documents=len(table),
        num_tokens=pc.sum(table.column("num_tokens")).as_py() or 0,
        num_documents_scored_now=len(missing),
    )


def count_words(text: str) -> int:
    """Return the number of pieces between runs of whitespace, as lm-evaluation-harness counts."""
    return len(re.split(r"\s+", text))


def _evaluation_documents(
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


def _kept(previous: Path | None, *, wanted: set[str]) -> pa.Table:
    if previous is None:
        return DOCUMENT_SCHEMA.empty_table()
    table = pq.read_table(previous / DOCUMENTS_NAME, schema=DOCUMENT_SCHEMA)
    return table.filter(
        pc.is_in(table.column("document_id"), pa.array(sorted(wanted), pa.string()))
    )


def score_documents(
    model_source: str | Path, documents: list[tuple[str, str]], evaluation: Evaluation
) -> pa.Table:
    """Return a table of `DOCUMENT_SCHEMA` for (id, text) pairs.

    ``model_source`` is a folder or a Hub name; nothing is loaded where there is no document.
    """
    if not documents:
        return DOCUMENT_SCHEMA.empty_table()
    import torch

    from mdel_assets.evaluation.log_probabilities import token_log_probabilities
    from mdel_assets.training.model_files import load_model, load_tokenizer

    tokenizer = load_tokenizer(model_source)
    prefix = prefix_token_id(tokenizer, evaluation.prefix_token)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(model_source, dtype="float32").to(device)
    _refuse_short_context(model, evaluation.max_length)
    tokens: list[list[int]] = []
    for start in range(0, len(documents), _TOKENIZED_PER_CALL):
        batch = [text for _, text in documents[start : start + _TOKENIZED_PER_CALL]]
        tokens += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
    scores = token_log_probabilities(
        model,
        tokens,
        prefix=prefix,
        max_length=evaluation.max_length,
        stride=evaluation.stride,
    )
    columns: list[Any] = [
        [key for key, _ in documents],
        [len(score) for score in scores],
        [len(text.encode()) for _, text in documents],
        [count_words(text) for _, text in documents],
        [-float(score.sum(dtype=np.float64)) for score in scores],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, DOCUMENT_SCHEMA, strict=False)]
    offsets = np.concatenate([[0], np.cumsum([len(score) for score in scores])])
    values = pa.array(np.concatenate(scores), pa.float32())
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


def _refuse_short_context(model: Any, max_length: int) -> None:
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit and limit < max_length:
        raise ScoringError(
            f"evaluation.max_length is {max_length}, but the model reads {limit} tokens at most. "
            f"Lower evaluation.max_length."
        )
