"""What prices are computed from: the sizes of an experiment's text and of its models."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mdel_assets.data.text_sizes import TextSizes, text_sizes
from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record
from mdel_assets.training.model_sizes import ModelSizes, pretrained_config
from mdel_assets.training.model_sources import (
    SourceSizes,
    likely_beside_weights,
    likely_tokens_per_byte,
    tokens_counted,
)

T = TypeVar("T")
# A record, with a training's curves where it has some, and the small files beside it.
RECORD_BYTES, TRAINING_RECORD_BYTES = 4_000.0, 19_000.0


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
        self._references: dict[str, SourceSizes] = {}
        self._found: dict[str, Any] = {}
        self._current: dict[tuple[str, str], Record | None] = {}

    def of(self, lineage: Lineage) -> "Sizes":
        """Return the sizes of the same text and model for another experiment that reads them."""
        other = Sizes(lineage, is_on_gpu=self.is_on_gpu, num_processes=self.num_processes)
        for name in ("text", "_model", "_seed", "_references", "_found"):
            other.__dict__[name] = getattr(self, name)
        known = ("beside_weights", "bytes_per_parameter", "tokens_per_byte")
        if isinstance(self._model, ModelSizes):
            other.__dict__ |= {name: getattr(self, name) for name in known}
        return other

    def once(self, name: str, find: Callable[[], T]) -> T:
        """Return what ``find`` returns, and call it only the first time that ``name`` is asked for.

        It must not depend on what `mdel_assets.planning.remedies` changes. An error of ``find`` is
        raised again each time.
        """
        if name not in self._found:
            try:
                self._found[name] = find()
            except MdelError as error:
                self._found[name] = error
        if isinstance(self._found[name], MdelError):
            raise self._found[name]
        found: T = self._found[name]
        return found

    def current(self, kind: str, key: str = "") -> Record | None:
        """Return the record of an artifact that a run would leave as it is, else None.

        The files, and a Hub that they came from, are asked only the first time.
        """
        if (kind, key) not in self._current:
            try:
                self._current[kind, key] = self.lineage.current(kind, key)
            except MdelError:
                self._current[kind, key] = None
        return self._current[kind, key]

    def _current_and_here(self, kind: str, key: str = "") -> Artifact | None:
        artifact, record = self.lineage.artifact(kind, key), self.current(kind, key)
        return artifact if record and artifact.is_here(record) else None

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        return self.lineage.experiment

    @functools.cached_property
    def text(self) -> TextSizes:
        """The sizes of its text."""
        return text_sizes(self.lineage, self.current)

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
        pretrain = self.experiment.seed_model.pretrain
        try:
            if self.seed_folder is not None or not pretrain:
                return self._seed.model
            settings = dict(pretrain.model)
            return ModelSizes(pretrained_config(settings, vocab_size=pretrain.vocab_size))
        except MdelError as error:
            # Every price asks again.
            return error

    @functools.cached_property
    def _seed(self) -> SourceSizes:
        """The seed, as a model from elsewhere; one that is pretrained is such once it is made.

        A made seed that is stale has no say: its successor may have other sizes.
        """
        seed = self.experiment.seed_model
        return SourceSizes(
            self.experiment.place_of_model(seed.path) if seed.path else "",
            revision=seed.revision,
            artifact=self._current_and_here("seed_model"),
            texts=self._validation_files,
        )

    def reference(self, name: str) -> SourceSizes:
        """Return the sizes of a model to compare with, by its name."""
        if name not in self._references:
            source = self.experiment.evaluation.references[name]
            self._references[name] = SourceSizes(
                self.experiment.place_of_model(source.path),
                revision=source.revision,
                artifact=self._current_and_here("reference_model", name),
                texts=self._validation_files,
            )
        return self._references[name]

    @property
    def seed_folder(self) -> Path | None:
        """A folder with the seed's files: the artifact, or the one that the experiment names.

        None where the seed is to be pretrained or fetched.
        """
        return self._seed.folder

    @property
    def seed_has_to_be_fetched(self) -> bool:
        """Whether the seed's files come from the Hub, and are not in the client's cache."""
        return self._seed.has_to_be_fetched

    @functools.cached_property
    def bytes_per_parameter(self) -> float:
        """The size of a stored parameter: the seed's files', else that of fp32."""
        is_from_scratch = self.seed_folder is None and self.experiment.seed_model.pretrain
        return 4.0 if is_from_scratch else self._seed.bytes_per_parameter

    @functools.cached_property
    def beside_weights(self) -> float:
        """The bytes of a model's folder besides its weights: the tokenizer, mostly."""
        if self.seed_folder is None:
            return likely_beside_weights(self._vocab_size())
        return self._seed.beside_weights

    @functools.cached_property
    def tokens_per_byte(self) -> float:
        """The tokens in a byte of text: of some documents' beginnings, else by the vocabulary."""
        found = tokens_counted(self.seed_folder, self._validation_files)
        return found or likely_tokens_per_byte(self._vocab_size())

    @property
    def _validation_files(self) -> list[Path]:
        paths = [
            self.lineage.folder("domain_dataset", domain) / "validation_domain.parquet"
            for domain in self.domains
        ]
        return [path for path in paths if path.is_file()]

    def _vocab_size(self) -> int:
        pretrain = self.experiment.seed_model.pretrain
        return pretrain.vocab_size if pretrain else self.model.vocab_rows
