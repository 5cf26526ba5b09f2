"""All models and ensembles of an experiment that can speak: by name, from its store.

What speakers have in common is held once: a model is loaded beside one that is there already, and
an ensemble has modules of its own over the same weights.
"""

import copy
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import GenerationError, unknown_name_message
from mdel_assets.evaluation.ensemble import Array
from mdel_assets.experiment.model_keys import Family
from mdel_assets.generation.ensembles import (
    Ensemble,
    TextRouter,
    Weights,
    domain_prior,
    ensembles_of,
)
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.digests import text_digest
from mdel_assets.store.looking_once import looking_once

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker

# Of the range of log-probabilities; with products in bfloat16, what is batched rounds otherwise.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


class Speakers:
    """Loads speakers of one experiment, and says what memory they take.

    ``is_widened``: as in `load_for_scoring`; if not, a step takes about twice as long in half the
    memory, where weights are stored in half precision.
    """

    def __init__(self, lineage: Lineage, *, is_widened: bool = True) -> None:
        self._lineage = lineage
        self._is_widened = is_widened
        self._models: dict[str, Any] = {}
        self._speakers: dict[str, Speaker] = {}

    def names(self) -> list[str]:
        """Return the models that were made, then the ensembles of them; only records are read.

        Raises:
            MissingArtifactError: the datasets, which decide on the experts, were never made.

        """
        with looking_once():
            models = [key for key in self._lineage.present_models() if self._was_made(key)]
            router = self._lineage.artifact("domain_router")
            ensembles = [
                ensemble.name
                for ensemble in self._ensembles().values()
                if all(map(self._was_made, self._experts(ensemble)))
                and (not ensemble.is_routed or router.last_record())
            ]
        return [*models, *ensembles]

    def load(self, name: str) -> "Speaker":
        """Return the speaker called ``name``, and keep it.

        Raises:
            GenerationError: no such name, or something that is out of date.
            MdelError: something that was never made, is damaged, or cannot be loaded.

        """
        if name not in self._speakers:
            ensemble = self._ensemble(name)
            with looking_once():
                for key in self._keys(name):
                    self._require_current(self._lineage.model(key))
                if ensemble and ensemble.is_routed:
                    self._require_current(self._lineage.artifact("domain_router"))
            try:
                self._speakers[name] = self._made(name, ensemble)
            finally:
                self._drop_unused()
        return self._speakers[name]

    def release(self, name: str) -> None:
        """Let a speaker go, with the models that no other speaker needs."""
        from mdel_assets.machine.memory import give_memory_back

        self._speakers.pop(name, None)
        self._drop_unused()
        give_memory_back()

    @property
    def held_bytes(self) -> int:
        """Bytes of the weights of all that is loaded, each once."""
        return sum(_storages(self._models.values()).values())

    def bytes_of(self, name: str) -> int:
        """Return the bytes of the weights of a loaded speaker, those that it shares, too."""
        return sum(_storages(self._models[key] for key in self._speakers[name].experts).values())

    def tokenizer(self, name: str) -> Any:
        """Return the tokenizer of a speaker, loaded or not, which reads text as scoring does.

        Raises:
            MdelError: no such name, or a model that was never made.

        """
        from mdel_assets.training.model_files import load_tokenizer, reading

        artifact = self._lineage.model(self._keys(name)[0])
        artifact.require()
        special_tokens = self._lineage.experiment.evaluation.special_tokens
        return reading(load_tokenizer(artifact.folder), special_tokens)

    def fingerprint(self, name: str) -> str:
        """Return 32 hexadecimal digits that change with what a speaker is.

        Raises:
            MdelError: as `tokenizer`.

        """
        settings = self._lineage.experiment.evaluation.ensemble
        parts = [self._lineage.model(key).require().fingerprint for key in self._keys(name)]
        if (ensemble := self._ensemble(name)) is None:
            return parts[0]
        if ensemble.is_routed:
            parts.append(self._lineage.artifact("domain_router").require().fingerprint)
        return text_digest(" ".join([name, *parts, settings.model_dump_json()]))

    def bytes_at_most(self, name: str) -> int:
        """Return what weights loading ``name`` adds at most, by records and files' headers alone.

        Raises:
            MdelError: as `load`, except for what is out of date.

        """
        from mdel_assets.store.tensor_files import TensorFolder
        from mdel_assets.training.stored_precision import bytes_per_weight

        total = 0
        # Models from elsewhere and mixtures hold no tensor of the experts as these hold it.
        is_first = all(Family.REFERENCE.has(key) or Family.MIXTURE.has(key) for key in self._models)
        for key in self._keys(name):
            if key in self._models:
                continue
            artifact = self._lineage.model(key)
            trained = artifact.require().details.get("num_trained_parameters")
            if trained is None or is_first:
                shapes = TensorFolder(artifact.folder).shapes.values()
                trained = sum(map(math.prod, shapes))
            each = 4 if self._is_widened else bytes_per_weight(artifact.folder)
            total += each * int(trained)
            is_first = False
        return total

    def _ensembles(self) -> dict[str, Ensemble]:
        """Return the ensembles that the experiment's report has, by name."""
        if not self._lineage.keys("ensemble_report"):
            return {}
        numbers = self._lineage.keys("random_split_expert")
        count = len(self._lineage.present_domains())
        return {e.name: e for e in ensembles_of(count, has_random_split=bool(numbers))}

    def _ensemble(self, name: str) -> Ensemble | None:
        """Return an ensemble by its name, None for a model; refuse any other name."""
        ensembles, models = self._ensembles(), self._lineage.present_models()
        if name not in ensembles and name not in models:
            known = [*models, *ensembles]
            raise GenerationError(unknown_name_message("model or ensemble", name, known))
        return ensembles.get(name)

    def _members(self, ensemble: Ensemble) -> list[str]:
        """Return the domains of an ensemble's experts, or their numbers in the random split."""
        if ensemble.is_of_random_split:
            return self._lineage.keys("random_split_expert")
        return self._lineage.present_domains()

    def _experts(self, ensemble: Ensemble) -> list[str]:
        kind = "random" if ensemble.is_of_random_split else "expert"
        return [f"{kind}-{member}" for member in self._members(ensemble)]

    def _keys(self, name: str) -> list[str]:
        """Return the keys of the models that a speaker is made of."""
        ensemble = self._ensemble(name)
        return self._experts(ensemble) if ensemble else [name]

    def _was_made(self, key: str) -> bool:
        return self._lineage.model(key).last_record() is not None

    def _require_current(self, artifact: Artifact) -> None:
        artifact.require()
        if stale := self._lineage.stale(artifact.kind, artifact.key):
            raise GenerationError(
                f"{artifact.label} is out of date ({stale.reason}), so nothing is read from it: "
                f"{artifact.remedy}."
            )
        current = self._lineage.current(artifact.kind, artifact.key) if artifact.remote else None
        if current:
            artifact.bring(current)

    def _made(self, name: str, ensemble: Ensemble | None) -> "Speaker":
        from mdel_assets.generation.networks import Networks
        from mdel_assets.generation.speaker import Speaker
        from mdel_assets.scoring.token_scores import prefix_token_id
        from mdel_assets.training.model_files import num_positions

        evaluation, keys = self._lineage.experiment.evaluation, self._keys(name)
        fingerprint = self.fingerprint(name)
        models = [self._model(key) for key in keys]
        if ensemble:
            # An ensemble wires its models together, which others are not to notice.
            models = [with_same_weights(model) for model in models]
        tokenizer = self.tokenizer(name)
        weights = self._weights(ensemble, tokenizer)
        return Speaker(
            name,
            Networks(models, tolerance=_TOLERANCE[evaluation.dtype]),
            experts=keys,
            tokenizer=tokenizer,
            prefix=prefix_token_id(tokenizer, evaluation.prefix_token),
            end_ids=_end_ids(models[0], tokenizer),
            context_length=num_positions(models[0].config),
            weigh=weights.of_text,
            fingerprint=fingerprint,
        )

    def _weights(self, ensemble: Ensemble | None, tokenizer: Any) -> Weights:
        """Return what weighs the experts of a speaker, told a text's domain or None."""
        from mdel_assets.evaluation.router import Router

        domains = self._lineage.present_domains()
        if ensemble is None:
            return Weights(Ensemble("", "uniform"), [""], domains=domains)
        members, route = self._members(ensemble), None
        if ensemble.is_routed:
            settings = self._lineage.experiment.evaluation.ensemble
            router = Router(
                self._lineage.required("domain_router"), temperature=settings.temperature
            )
            route = TextRouter(router, ensemble.family, tokenizer)
        return Weights(
            ensemble,
            members,
            domains=domains,
            route=route,
            prior=lambda domain: self._prior(self._experts(ensemble), domain),
        )

    def _prior(self, experts: list[str], domain: str) -> Array:
        store = self._lineage
        with looking_once():
            for key in experts:
                self._require_current(store.artifact("token_scores", key))
        folders = {key: store.folder("token_scores", key) for key in experts}
        decay = self._lineage.experiment.evaluation.ensemble.prior_decay
        return domain_prior(folders, domain, decay=decay)

    def _model(self, key: str) -> Any:
        """Return a model with modules of its own that nothing else wires."""
        from mdel_assets.scoring.beside import load_beside
        from mdel_assets.scoring.loading import load_for_scoring

        if key not in self._models:
            store = self._lineage
            folder = store.model(key).folder
            for other, loaded in self._models.items():
                if beside := load_beside(loaded, store.model(other).folder, folder):
                    self._models[key] = beside[0]
                    break
            else:
                self._models[key] = load_for_scoring(
                    folder, self._lineage.experiment.evaluation, is_widened=self._is_widened
                )
        return self._models[key]

    def _drop_unused(self) -> None:
        needed = {key for speaker in self._speakers.values() for key in speaker.experts}
        self._models = {key: model for key, model in self._models.items() if key in needed}


def with_same_weights(model: Any) -> Any:
    """Return a copy of a model that has the same tensors."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def _storages(models: Iterable[Any]) -> dict[int, int]:
    """Return the bytes of all memory that models' tensors lie in, by its place."""
    found = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end a text: the tokenizer's, and what the model's files name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return frozenset(i for i in (tokenizer.eos_token_id, *several) if i is not None)
