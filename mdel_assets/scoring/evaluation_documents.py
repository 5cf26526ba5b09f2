"""The documents that a model is scored on, their texts, and their tokens.

`evaluation_documents` chooses by ids and sizes alone; texts are read on demand, and tokens are
stored in a file. Memory holds a few numbers per document, for any amount of text.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.data.document_index import ids_of, salted_hash
from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.data.temporary_columns import TemporaryColumn
from mdel_assets.data.text_batches import text_batches
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.token_scores import CELL_SCHEMA, DocumentSize


@dataclasses.dataclass(frozen=True)
class EvaluationDocuments:
    """Documents of several splits; a document that several splits hold is in it once.

    ``cells`` is a table of `CELL_SCHEMA`. Of a text longer than ``max_bytes`` only the beginning is
    scored.
    """

    files: tuple[Path, ...]
    place_of: Mapping[str, tuple[int, int]]
    cells: pa.Table
    max_bytes: int | None

    def __len__(self) -> int:
        return len(self.place_of)

    def __contains__(self, key: object) -> bool:
        return key in self.place_of

    def texts(self, keys: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
        """Yield (id, text) of the documents called ``keys``, or of all, file by file."""
        wanted: dict[int, dict[str, int]] = {}
        for key in self.place_of if keys is None else keys:
            file, row = self.place_of[key]
            wanted.setdefault(file, {})[key] = row
        for file, row_of in sorted(wanted.items()):
            rows = np.fromiter(row_of.values(), np.int64, len(row_of))
            found = SplitDocuments.of(self.files[file]).texts(rows)
            for key, text in zip(row_of, found, strict=True):
                yield key, beginning(text, self.max_bytes)


def beginning(text: str, max_bytes: int | None) -> str:
    """Return the longest beginning of ``text`` with at most ``max_bytes`` in UTF-8."""
    if max_bytes is None or len(text) * 4 <= max_bytes:
        return text
    return text.encode()[:max_bytes].decode("utf-8", "ignore")


def evaluation_documents(
    datasets: Mapping[str, Path], evaluation: Evaluation
) -> EvaluationDocuments:
    """Return the documents of ``datasets`` (folders by domain) to evaluate; cells ordered by id."""
    files: list[Path] = []
    place_of: dict[str, tuple[int, int]] = {}
    cells = []
    for dataset, folder in datasets.items():
        for split in evaluation.splits:
            path = folder / f"{split}.parquet"
            table = pq.read_table(path, columns=["document_id", "num_bytes"])
            rows = _sample(table, evaluation)
            keys = table.column("document_id").take(pa.array(rows)).to_pylist()
            order = sorted(range(len(keys)), key=keys.__getitem__)
            chosen = [keys[i] for i in order]
            for i in order:
                place_of.setdefault(keys[i], (len(files), int(rows[i])))
            files.append(path)
            columns = [[dataset] * len(chosen), [split] * len(chosen), chosen]
            arrays = [pa.array(column, pa.string()) for column in columns]
            cells.append(pa.Table.from_arrays(arrays, schema=CELL_SCHEMA))
    table = pa.concat_tables(cells) if cells else CELL_SCHEMA.empty_table()
    return EvaluationDocuments(tuple(files), place_of, table, evaluation.max_document_bytes)


def _sample(table: pa.Table, evaluation: Evaluation) -> NDArray[np.int64]:
    """Return the rows of the wanted number of documents with the lowest seeded hash."""
    if len(table) <= evaluation.max_documents and evaluation.max_tokens is None:
        return np.arange(len(table))
    chunks = table.column("document_id").chunks
    ids = np.concatenate([np.empty((0, 2), np.uint64), *map(ids_of, chunks)])
    ranks = salted_hash(ids, salt=f"evaluation:{evaluation.seed}")
    rows = np.argsort(ranks, kind="stable")[: evaluation.max_documents]
    budget, longest = evaluation.max_bytes, evaluation.max_document_bytes
    if budget is None or longest is None:
        return rows
    sizes = np.minimum(table.column("num_bytes").to_numpy()[rows], longest)
    # The document that reaches the budget is included.
    return rows[: int(np.searchsorted(np.cumsum(sizes), budget)) + 1]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, without special tokens."""
    tokens: list[list[int]] = []
    for batch in text_batches(texts, length_of=len):
        tokens += tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


class TokenizedDocuments:
    """Documents as tokens of one tokenizer, in a temporary file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._column = TemporaryColumn(folder, np.int32)
        self._start_of: dict[str, int] = {}
        self.sizes: dict[str, DocumentSize] = {}
        self.num_tokens: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._column.__exit__(*error)

    def add(self, documents: Iterable[tuple[str, str]], tokenizer: Any) -> None:
        """Tokenize (id, text) pairs, without special tokens, some MiB at a time."""
        for batch in text_batches(documents, length_of=lambda document: len(document[1])):
            texts = [text for _, text in batch]
            found = tokenize(tokenizer, texts)
            for (key, text), tokens in zip(batch, found, strict=True):
                self._start_of[key] = len(self._column)
                self._column.append(np.array(tokens, np.int32))
                self.sizes[key] = DocumentSize.of(key, text)
                self.num_tokens[key] = len(tokens)

    def tokens(self, key: str) -> list[int]:
        """Return a document's token ids."""
        start = self._start_of[key]
        found: list[int] = self._column.read(start, start + self.num_tokens[key]).tolist()
        return found
