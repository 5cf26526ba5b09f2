"""What prices are computed from: the sizes of an experiment's text and of its models."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mdel_assets.data.source_sizes import hub_answers
from mdel_assets.data.text_sizes import TextSizes, text_sizes
from mdel_assets.errors import MdelError, TrainingError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.tensor_files import TensorFolder, weight_files
from mdel_assets.store.tensor_headers import dtype_bytes
from mdel_assets.training.model_sizes import ModelSizes, pretrained_config

# A record, with a training's curves where it has some, and the small files beside it.
RECORD_BYTES, TRAINING_RECORD_BYTES = 4_000.0, 19_000.0
# Byte-level BPE: bytes of text in a token with 1,024 words, and more for every doubling.
_BYTES_PER_TOKEN, _MORE_PER_DOUBLING = 2.4, 0.27
# A tokenizer's file, for each of its words.
_TOKENIZER_BYTES_PER_WORD = 53.0
# How much text is tokenized to find how many tokens a byte has.
_SAMPLED_DOCUMENTS, _SAMPLED_CHARACTERS = 60, 20_000


class Sizes:
    """The sizes of an experiment, each found when it is first asked for.

    ``is_on_gpu``: the trainings take place on a GPU. Scorings are dealt out to ``num_processes``.
    """

    def __init__(
        self, lineage: Lineage, *, is_on_gpu: bool = False, num_processes: int = 1
    ) -> None:
        self.lineage = lineage
        self.is_on_gpu = is_on_gpu
        self.num_processes = num_processes

    def of(self, lineage: Lineage) -> "Sizes":
        """Return the sizes of the same text and model for another experiment that reads them."""
        other = Sizes(lineage, is_on_gpu=self.is_on_gpu, num_processes=self.num_processes)
        for name in ("text", "_model", "seed_folder"):
            other.__dict__[name] = getattr(self, name)
        known = ("beside_weights", "bytes_per_parameter", "tokens_per_byte")
        if isinstance(self._model, ModelSizes):
            other.__dict__ |= {name: getattr(self, name) for name in known}
        return other

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        return self.lineage.experiment

    @functools.cached_property
    def text(self) -> TextSizes:
        """The sizes of its text."""
        return text_sizes(self.lineage)

    @property
    def domains(self) -> list[str]:
        """The domains that have text, as far as is known."""
        return list(self.text.datasets)

    @property
    def model(self) -> ModelSizes:
        """The seed's, and so every expert's.

        Raises:
            TrainingError: its configuration cannot be read, or is refused.

        """
        if isinstance(self._model, MdelError):
            raise self._model
        return self._model

    @functools.cached_property
    def _model(self) -> ModelSizes | MdelError:
        try:
            return ModelSizes(self._config())
        except MdelError as error:
            # Every price asks again; the Hub is asked once.
            return error

    @functools.cached_property
    def seed_folder(self) -> Path | None:
        """A folder with the seed's files: the artifact, or the one that the experiment names."""
        artifact = self.lineage.artifact("seed_model")
        if artifact.record_path.exists():
            return artifact.folder
        path = self.experiment.seed_model.path
        folder = Path(self.experiment.place_of_model(path or "")).expanduser()
        return folder if path and (folder / "config.json").is_file() else None

    @functools.cached_property
    def bytes_per_parameter(self) -> float:
        """The size of a stored parameter: the seed's files', else that of fp32."""
        if self.seed_folder is None:
            return 4.0 if self.experiment.seed_model.pretrain else self._named_bytes()
        stored = TensorFolder(self.seed_folder).stored.values()
        num_bytes = sum(t.num_elements * dtype_bytes(t.dtype) for t in stored)
        return num_bytes / max(1, sum(t.num_elements for t in stored))

    @functools.cached_property
    def beside_weights(self) -> float:
        """The bytes of a model's folder besides its weights: the tokenizer, mostly."""
        if self.seed_folder is None:
            return _TOKENIZER_BYTES_PER_WORD * self._vocab_size() + 2_000
        weights = set(weight_files(self.seed_folder))
        named = ("record.json", "making.json")
        files = [p for p in self.seed_folder.iterdir() if p.is_file() and p not in weights]
        return float(sum(p.stat().st_size for p in files if p.name not in named))

    @functools.cached_property
    def tokens_per_byte(self) -> float:
        """The tokens in a byte of text: of some documents' beginnings, else by the vocabulary."""
        try:
            if (found := self._tokens_counted()) is not None:
                return found
        except MdelError:
            pass
        doublings = math.log2(self._vocab_size() / 1024)
        return 1.0 / max(1.2, _BYTES_PER_TOKEN + _MORE_PER_DOUBLING * doublings)

    def _tokens_counted(self) -> float | None:
        from mdel_assets.data.split_documents import SplitDocuments
        from mdel_assets.training.model_files import load_tokenizer

        datasets = self.lineage
        paths = [
            datasets.folder("domain_dataset", domain) / "validation_domain.parquet"
            for domain in self.domains
        ]
        paths = [path for path in paths if path.is_file()]
        if self.seed_folder is None or not paths:
            return None
        tokenizer = load_tokenizer(self.seed_folder)
        num_tokens = num_bytes = 0
        for path in paths:
            documents = SplitDocuments.of(path)
            count = min(len(documents), _SAMPLED_DOCUMENTS)
            rows = np.linspace(0, max(0, len(documents) - 1), count).astype(np.int64)
            for text in documents.texts(rows):
                cut = text[:_SAMPLED_CHARACTERS]
                num_bytes += len(cut.encode())
                num_tokens += len(tokenizer(cut, add_special_tokens=False)["input_ids"])
        return num_tokens / num_bytes if num_bytes else None

    def _config(self) -> Any:
        from mdel_assets.training.model_files import load_config

        if self.seed_folder is not None:
            return load_config(self.seed_folder)
        seed = self.experiment.seed_model
        if seed.pretrain:
            return pretrained_config(dict(seed.pretrain.model), vocab_size=seed.pretrain.vocab_size)
        return _config_of_source(seed.path or "", revision=seed.revision)

    def _vocab_size(self) -> int:
        pretrain = self.experiment.seed_model.pretrain
        return pretrain.vocab_size if pretrain else self.model.vocab_rows

    def _named_bytes(self) -> float:
        named = str(getattr(self._config(), "dtype", "") or "")
        return 2.0 if "16" in named else 4.0


def _config_of_source(path: str, *, revision: str) -> Any:
    """Return the configuration of a model on the Hub, without its weights."""
    from transformers import AutoConfig

    if path.startswith("sample://"):
        raise TrainingError(
            f"The sizes of {path} are not known before it is unpacked: make the seed model first "
            f"('mdel run --until seed_model')."
        )
    is_here = not hub_answers()
    try:
        return AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=False, local_files_only=is_here
        )
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise TrainingError(
            f"The sizes of {path} are not known: its configuration could not be fetched or read."
        ) from error
