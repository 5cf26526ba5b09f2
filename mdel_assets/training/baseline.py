"""Baselines: what experts are judged against, trained as they are, on all domains' datasets.

`dense` reads as many tokens as all experts together, the same from every domain's dataset: what
experts together must beat. `dense-one` reads as many as one expert: much of what a single expert,
or an average of experts, gains over the seed is plain further training. `random-<n>` are as many
experts as there are domains, each of which reads its share of the same datasets' documents, dealt
at random: what experts of domains must beat (the control of c-BTM, arXiv 2303.14177).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from mdel_assets.errors import TrainingError
from mdel_assets.experiment_fields import ExpertTraining
from mdel_assets.training.expert import ExpertResult, train_layers, validation_blocks
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets.training.packing import read_texts, tokenized_documents


@dataclasses.dataclass(frozen=True)
class Part:
    """One of ``count`` parts that documents are dealt into by a hash of their id."""

    index: int
    count: int

    def holds(self, document_id: str) -> bool:
        """Whether the document is of this part."""
        digest = xxhash.xxh3_64_intdigest(f"random-split:{document_id}".encode())
        return digest % self.count == self.index


def train_baseline(
    training: ExpertTraining,
    *,
    num_tokens: int,
    seed_folder: Path,
    dataset_folders: Mapping[str, Path],
    folder: Path,
    work_folder: Path,
    part: Part | None = None,
    max_seconds: float | None = None,
) -> ExpertResult:
    """Train the seed's chosen layers on ``num_tokens`` tokens, an equal share of each dataset.

    ``part`` limits it to its documents. Everything else is as `expert.train_expert` has it.

    Raises:
        TrainingError: a dataset has no document for the part; else as `train_expert`.

    """
    tokenizer = load_tokenizer(seed_folder)
    settings = training.model_copy(update={"num_tokens": num_tokens})
    blocks = mixed_blocks(dataset_folders, tokenizer, settings, part=part)
    held_out = [
        text
        for dataset in dataset_folders.values()
        for text in read_texts(dataset / "validation_domain.parquet")
    ]
    validation = validation_blocks({"validation_domain": held_out}, tokenizer, training)
    return train_layers(
        settings,
        blocks,
        validation,
        seed_folder=seed_folder,
        folder=folder,
        work_folder=work_folder,
        max_seconds=max_seconds,
    )


def mixed_blocks(
    datasets: Mapping[str, Path], tokenizer: Any, training: ExpertTraining, *, part: Part | None
) -> NDArray[np.int32]:
    """Return (B, block_size) token ids, B the samples that training reads, of all ``datasets``.

    Each dataset gives the same number of tokens, from its documents in the order in which an
    expert reads them; one that is shorter is read again.
    """
    size = training.block_size
    num_blocks = training.num_steps * training.batch_size
    wanted = np.diff(np.linspace(0, num_blocks * size, len(datasets) + 1).astype(np.int64))
    pieces: list[NDArray[np.int32]] = []
    for (name, folder), count in zip(datasets.items(), wanted, strict=True):
        texts = _texts(folder / "train.parquet", part)
        if not texts:
            raise TrainingError(
                f"Of {name}'s training documents none is dealt to part {part}. Leave the random "
                f"split out (baselines.random_split: false), or give the domain more text."
            )
        have, own = 0, []
        for tokens in tokenized_documents(texts, tokenizer, seed=training.seed):
            own.append(tokens[: count - have])
            have += len(own[-1])
            if have == count:
                break
        repeated = np.concatenate(own)
        pieces.append(np.resize(repeated, count))
    return np.concatenate(pieces).reshape(num_blocks, size)


def _texts(path: Path, part: Part | None) -> list[str]:
    table = pq.read_table(path, columns=["document_id", "text"])
    ids, texts = (table.column(name).to_pylist() for name in ("document_id", "text"))
    return [t for key, t in zip(ids, texts, strict=True) if part is None or part.holds(key)]
