"""Baselines: models to compare the experts with, trained in the same way on all domains' datasets.

`dense` reads as many tokens as all experts together, the same number from every domain's dataset.
Experts combined must beat it. `dense-one` reads as many tokens as one expert, because much of what
a single expert or an average of experts gains over the seed is plain further training. `random-<n>`
are as many experts as there are domains; each reads its share of the same datasets' documents,
dealt at random. Experts of domains must beat them (the control of c-BTM, arXiv 2303.14177).
Together they read what the experts of domains read: each dataset's documents, in its expert's
order, are dealt to them in turn.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.data.temporary_columns import TemporaryColumn
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.training.expert import train_layers, validation_blocks
from mdel_assets.training.model_files import (
    load_config,
    load_tokenizer,
    reading,
    refuse_long_blocks,
)
from mdel_assets.training.packing import shuffled, tokenized_documents
from mdel_assets.training.results import ExpertResult

_log = logging.getLogger(__name__)
_TOKENS_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """One of ``count`` parts that each dataset's shuffled documents are dealt to in turn."""

    index: int
    count: int

    def of(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the part's share of documents that are given in their order."""
        return order[self.index :: self.count]


def train_baseline(
    training: ExpertTraining,
    *,
    num_experts: int,
    seed_folder: Path,
    dataset_folders: Mapping[str, Path],
    folder: Path | None,
    work_folder: Path,
    part: Part | None = None,
    conditions: Conditions = NO_CONDITIONS,
) -> ExpertResult | None:
    """Train the seed's chosen layers on all datasets, with the tokens of ``num_experts`` experts.

    ``part`` limits the training to its documents. Everything else is as in `expert.train_expert`.

    Raises:
        TrainingError: no dataset has a document for the part; else as `train_expert`.

    """
    config = load_config(seed_folder)
    refuse_long_blocks(config, training.block_size, setting="training.block_size")
    tokenizer = reading(load_tokenizer(seed_folder), training.special_tokens)
    blocks = mixed_blocks(
        dataset_folders,
        tokenizer,
        training,
        num_experts=num_experts,
        part=part,
        folder=work_folder,
    )
    settings = training.model_copy(
        update={"max_steps": len(blocks) // training.batch_size, "num_epochs": None}
    )
    held_out = SplitDocuments.together(
        [SplitDocuments.of(path / "validation_domain.parquet") for path in dataset_folders.values()]
    )
    validation = validation_blocks({"validation_domain": held_out}, tokenizer, training)
    return train_layers(
        settings,
        blocks,
        validation,
        tokenizer=tokenizer,
        seed_folder=seed_folder,
        folder=folder,
        work_folder=work_folder,
        conditions=conditions,
    )


def mixed_blocks(
    datasets: Mapping[str, Path],
    tokenizer: Any,
    training: ExpertTraining,
    *,
    num_experts: int,
    part: Part | None,
    folder: Path | None = None,
) -> NDArray[np.int32]:
    """Return (B, block_size) token ids of all ``datasets``: the amount of ``num_experts`` experts.

    Each dataset gives the same share of what its own expert would read of it, from its documents
    in the order in which that expert reads them; where they are fewer, they are read again. A
    dataset with fewer documents than parts has none for some: the others then give its share. The
    ids are mapped from a file in ``folder``, as those of `pack` are.

    Raises:
        TrainingError: no dataset has a document for the part.

    """
    own = {name: _Documents(path, tokenizer, training, part) for name, path in datasets.items()}
    lacking = [name for name, documents in own.items() if not len(documents)]
    if lacking and len(lacking) < len(own):
        _log.warning("%s: no document for %s; the other datasets supply more", lacking, part)
    own = {name: documents for name, documents in own.items() if len(documents)}
    if not own:
        raise TrainingError(
            f"None of {len(datasets)} datasets has a training document for {part}. Leave out the "
            f"random split (baselines.random_split: false), or add text to the corpus."
        )
    step_tokens = training.batch_size * training.block_size
    if training.num_epochs is None:
        wanted = np.full(len(own), training.num_tokens_read / len(own))
    else:
        per_epoch = np.array([documents.count_all() for documents in own.values()])
        wanted = training.num_epochs * per_epoch / len(own)
    wanted = wanted * num_experts
    num_steps = max(1, round(wanted.sum() / step_tokens))
    bounds = np.concatenate([[0], np.cumsum(wanted)]) * (num_steps * step_tokens / wanted.sum())
    counts = np.diff(bounds.round().astype(np.int64))
    with TemporaryColumn(folder, np.int32) as column:
        for documents, count in zip(own.values(), counts.tolist(), strict=True):
            documents.append_first(count, column)
        return column.mapped().reshape(-1, training.block_size)


class _Documents:
    """A dataset's training documents as tokens, in an expert's order."""

    def __init__(
        self, folder: Path, tokenizer: Any, training: ExpertTraining, part: Part | None
    ) -> None:
        self._documents = SplitDocuments.of(folder / "train.parquet")
        self._whole = shuffled(self._documents, seed=training.seed)[: training.max_train_documents]
        self._own = self._whole if part is None else part.of(self._whole)
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._own)

    def count_all(self) -> int:
        """Return the number of tokens of the whole dataset, not only of the part."""
        return sum(map(len, self._tokens(self._whole)))

    def append_first(self, count: int, column: TemporaryColumn) -> None:
        """Append ``count`` tokens, the documents repeated where they hold fewer."""
        start = len(column)
        for tokens in self._tokens(self._own, num_tokens=count):
            column.append(tokens[: start + count - len(column)])
            if len(column) == start + count:
                return
        length = len(column) - start
        # What is read from ``length`` before the end is what comes next.
        while (left := start + count - len(column)) > 0:
            first = len(column) - length
            column.append(column.read(first, first + min(left, length, _TOKENS_AT_ONCE)))

    def _tokens(
        self, order: NDArray[np.int64], *, num_tokens: int | None = None
    ) -> Iterator[NDArray[np.int32]]:
        return tokenized_documents(self._documents, order, self._tokenizer, num_tokens=num_tokens)
