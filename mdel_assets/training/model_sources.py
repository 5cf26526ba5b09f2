"""The sizes of a model from elsewhere, read from its configuration and the files that are here.

Seeds that are adopted, and models to compare with, are such models.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdel_assets.data.source_sizes import hub_answers
from mdel_assets.errors import MdelError, TrainingError
from mdel_assets.hub.sources import hub_reference, is_fetched
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.tensor_files import TensorFolder, weight_files
from mdel_assets.store.tensor_headers import dtype_bytes
from mdel_assets.training.model_sizes import ModelSizes, pretrained_config
from mdel_assets.training.package_models import package_model

# A tokenizer's file, for each of its words, and what lies beside it.
_TOKENIZER_BYTES_PER_WORD, _CONFIGURATION_BYTES = 53.0, 2_000.0
# Byte-level BPE: bytes of text in a token with 1,024 words, and more for every doubling.
_BYTES_PER_TOKEN, _MORE_PER_DOUBLING = 2.4, 0.27
# How much text is tokenized to find how many tokens a byte has.
_SAMPLED_DOCUMENTS, _SAMPLED_CHARACTERS = 60, 20_000


class SourceSizes:
    """The sizes of the model at ``place`` (a folder, a Hub id or a package's model).

    They are those of the ``artifact`` that was made from it, where it is here and up to date.
    ``texts`` are files of documents that its tokenizer is tried on.
    """

    def __init__(
        self, place: str, *, revision: str, artifact: Artifact | None, texts: Sequence[Path]
    ) -> None:
        self._place = place
        self._revision = revision
        self._artifact = artifact
        self._texts = texts

    @functools.cached_property
    def folder(self) -> Path | None:
        """A folder with the model's files: the artifact, or the one that was named."""
        if self._artifact:
            return self._artifact.folder
        folder = Path(self._place).expanduser()
        return folder if self._place and (folder / "config.json").is_file() else None

    @property
    def model(self) -> ModelSizes:
        """The sizes of the model itself.

        Raises:
            TrainingError: its configuration cannot be read, or is refused.

        """
        if isinstance(self._model, MdelError):
            raise self._model
        return self._model

    @functools.cached_property
    def _model(self) -> ModelSizes | MdelError:
        from mdel_assets.training.model_files import load_config

        try:
            if self.folder is not None:
                return ModelSizes(load_config(self.folder))
            return ModelSizes(config_of_source(self._place, revision=self._revision))
        except MdelError as error:
            # Every price asks again; the Hub is asked once.
            return error

    @functools.cached_property
    def bytes_per_parameter(self) -> float:
        """The size of a stored parameter: that of its files, else of the dtype that it names."""
        if self.folder is not None:
            return stored_bytes_per_parameter(self.folder)
        named = str(getattr(self.model.config, "dtype", "") or "")
        return 2.0 if "16" in named else 4.0

    @functools.cached_property
    def beside_weights(self) -> float:
        """The bytes of its files besides its weights: the tokenizer, mostly."""
        if self.folder is not None:
            return stored_beside_weights(self.folder)
        return likely_beside_weights(self.model.vocab_rows)

    @functools.cached_property
    def tokens_per_byte(self) -> float:
        """The tokens in a byte of text: of some documents' beginnings, else by the vocabulary."""
        found = tokens_counted(self.folder, self._texts)
        return found or likely_tokens_per_byte(self.model.vocab_rows)

    @property
    def has_to_be_fetched(self) -> bool:
        """Whether its files come from the Hub, and are not in the client's cache."""
        reference = hub_reference(self._place, revision=self._revision)
        return self.folder is None and reference is not None and not is_fetched(reference)


def stored_bytes_per_parameter(folder: Path) -> float:
    """Return the mean size of a parameter in a model's files."""
    stored = TensorFolder(folder).stored.values()
    num_bytes = sum(t.num_elements * dtype_bytes(t.dtype) for t in stored)
    return num_bytes / max(1, sum(t.num_elements for t in stored))


def stored_beside_weights(folder: Path) -> float:
    """Return the bytes of a model's folder besides its weights and records."""
    weights = set(weight_files(folder))
    named = ("record.json", "making.json")
    files = [path for path in folder.iterdir() if path.is_file() and path not in weights]
    return float(sum(path.stat().st_size for path in files if path.name not in named))


def likely_beside_weights(vocab_size: int) -> float:
    """Return about how many bytes lie beside the weights of a model with so many words."""
    return _TOKENIZER_BYTES_PER_WORD * vocab_size + _CONFIGURATION_BYTES


def likely_tokens_per_byte(vocab_size: int) -> float:
    """Return about how many tokens with so many words a byte of text has."""
    doublings = math.log2(vocab_size / 1024)
    return 1.0 / max(1.2, _BYTES_PER_TOKEN + _MORE_PER_DOUBLING * doublings)


def tokens_counted(folder: Path | None, texts: Sequence[Path]) -> float | None:
    """Return the tokens in a byte of the beginnings of some documents; None where that is unknown.

    The tokenizer is that of a model's ``folder``; ``texts`` are files of documents.
    """
    from mdel_assets.data.split_documents import SplitDocuments
    from mdel_assets.training.model_files import load_tokenizer

    if folder is None or not texts:
        return None
    try:
        tokenizer = load_tokenizer(folder)
        num_tokens = num_bytes = 0
        for path in texts:
            documents = SplitDocuments.of(path)
            count = min(len(documents), _SAMPLED_DOCUMENTS)
            rows = np.linspace(0, max(0, len(documents) - 1), count).astype(np.int64)
            for text in documents.texts(rows):
                cut = text[:_SAMPLED_CHARACTERS]
                num_bytes += len(cut.encode())
                num_tokens += len(tokenizer(cut, add_special_tokens=False)["input_ids"])
    except MdelError:
        return None
    return num_tokens / num_bytes if num_bytes else None


def config_of_source(path: str, *, revision: str) -> Any:
    """Return the configuration of a package's model or of one on the Hub, without its weights.

    Raises:
        TrainingError: it could not be fetched or read.

    """
    from transformers import AutoConfig

    if package := package_model(path):
        settings = dict(package.settings)
        return pretrained_config(settings, vocab_size=settings.pop("vocab_size"))
    is_here = not hub_answers()
    try:
        return AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=False, local_files_only=is_here
        )
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise TrainingError(
            f"The sizes of {path} are not known: its configuration could not be fetched or read."
        ) from error
