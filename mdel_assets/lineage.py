"""Lineage: what every artifact is made from, in one place, without Dagster.

`Lineage.identity(kind, key)` gives an artifact's expected identity from the experiment and the
records of its inputs. Assets write that identity; `mdel run` and `mdel status` compare it with
what lies on disk.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mdel_assets.artifacts import Artifact, Identity, Record, looking_once
from mdel_assets.errors import ExperimentError, MdelError, MissingArtifactError
from mdel_assets.experiment import Shard
from mdel_assets.experiment_fields import WATCHING_FIELDS, ExpertTraining, Optimization
from mdel_assets.hub_sources import at_commit
from mdel_assets.line import Line
from mdel_assets.merging.members import Members, members_of, recipe_config
from mdel_assets.merging.outside_models import outside_digest
from mdel_assets.staleness import Stale, reason_to_remake

# Raised when the code of a stage changes what it makes from the same config and inputs.
CODE_VERSIONS = {
    "raw_pile_shard": "1",
    "corpus_clusters": "1",
    "shard_documents": "2",
    "domain_dataset": "2",
    "seed_model": "3",
    "expert_model": "3",
    "dense_baseline": "3",
    "dense_one_baseline": "3",
    "random_split_expert": "4",
    "variant_expert": "1",
    "reference_model": "1",
    "merged_model": "2",
    "searched_merge": "1",
    "layer_differences": "1",
    "token_scores": "2",
    "perplexity_report": "2",
    "perplexity_matrix": "3",
    "domain_router": "1",
    "ensemble_report": "3",
    "sweep_report": "1",
    "hub_dataset": "1",
    "hub_expert": "1",
    "hub_merged_model": "1",
}
# What else than model and document a token's score depends on.
WINDOW_SETTINGS = ("max_length", "stride", "prefix_token", "dtype")


def _unseen(training: Optimization) -> set[str]:
    """Return the settings of a training that its identity leaves out."""
    return {*WATCHING_FIELDS} | (
        {"special_tokens"} if training.special_tokens == "tokens" else set()
    )


class Lineage(Line):
    """The identities of all artifacts of one experiment."""

    def artifact(self, kind: str, key: str) -> Artifact:
        """Return the place of an artifact."""
        one_of_many: dict[str, Callable[[str], Artifact]] = {
            "raw_pile_shard": self.store.shard,
            "shard_documents": self.store.documents,
            "domain_dataset": self.store.dataset,
            "expert_model": self.store.expert,
            "random_split_expert": self.store.random_expert,
            "merged_model": self.store.merged,
            "searched_merge": self.store.search,
            "variant_expert": self.store.variant,
            "reference_model": self.store.reference,
            "layer_differences": self.store.differences,
            "token_scores": self.store.scores,
            "perplexity_report": self.store.report,
        }
        if kind in one_of_many:
            return one_of_many[kind](key)
        only_one: dict[str, Callable[[], Artifact]] = {
            "corpus_clusters": self.store.clusters,
            "seed_model": self.store.seed_model,
            "dense_baseline": self.store.dense,
            "dense_one_baseline": self.store.dense_one,
            "perplexity_matrix": self.store.matrix,
            "domain_router": self.store.router,
            "ensemble_report": self.store.ensemble,
            "sweep_report": self.store.sweep,
        }
        return only_one[kind]()

    def identity(self, kind: str, key: str = "") -> Identity:
        """Return what the artifact should be, given its inputs as they are on disk.

        Raises:
            MissingArtifactError: an input was never made; the message names the command.

        """
        config, inputs = self._made_of(kind, key)
        return self._identity(kind, key, config, self._fingerprints(inputs))

    def _identity(
        self, kind: str, key: str, config: dict[str, Any], inputs: dict[str, str]
    ) -> Identity:
        return Identity(
            kind=kind,
            key=key,
            experiment=self.experiment.name,
            code_version=CODE_VERSIONS[kind],
            config=config,
            inputs=inputs,
        )

    def _fingerprints(self, inputs: Sequence[Artifact]) -> dict[str, str]:
        """Return the inputs' fingerprints; an absent domain's is of the dataset it would have."""
        has_datasets = any(artifact.kind == "domain_dataset" for artifact in inputs)
        absent = dict(self.absent_datasets()) if has_datasets else {}
        return {
            artifact.label: absent.get(artifact.label) or artifact.require().fingerprint
            for artifact in inputs
        }

    def absent_datasets(self) -> set[tuple[str, str]]:
        """Return label and fingerprint of the dataset that each unrouted domain would have.

        None where the files of the shards are gone.
        """
        try:
            return {
                (self.store.dataset(domain).label, self._dataset_by_records(domain))
                for domain in self.unrouted_domains()
            }
        except ExperimentError:
            return set()

    def _dataset_by_records(self, domain: str) -> str:
        """Return the fingerprint that a dataset would have; no file of a document is read."""
        config, documents = self._domain_dataset(domain)
        records = {artifact.label: artifact.read_record() for artifact in documents}
        inputs = {label: record.fingerprint for label, record in records.items() if record}
        return self._identity("domain_dataset", domain, config, inputs).fingerprint

    def inputs(self, kind: str, key: str = "") -> list[Artifact]:
        """Return what an artifact is made from, whether that is there or not."""
        return self._made_of(kind, key)[1]

    def _made_of(self, kind: str, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        made: tuple[dict[str, Any], list[Artifact]] = getattr(self, f"_{kind}")(key)
        return made

    def current(self, kind: str, key: str = "") -> Record | None:
        """Return the record if the artifact is whole and is what it should be, else None."""
        if kind == "raw_pile_shard":
            return self._current_shard(key)
        return self.artifact(kind, key).holds(self.identity(kind, key).fingerprint)

    def absent_domains(self) -> list[str]:
        """Domains of which the corpus is known to have no training document.

        What was not read yet, or would be read anew, is not known to be absent. Records alone are
        read: the definitions ask this whenever they are loaded.
        """
        try:
            with looking_once():
                unrouted = self.unrouted_domains()
                return [
                    key
                    for key in self.experiment.domain_keys
                    if key in unrouted or self._is_without_training_text(key)
                ]
        except MdelError:
            return []

    def _is_without_training_text(self, domain: str) -> bool:
        record = self.store.dataset(domain).read_record()
        if record is None or record.counts["train"]["num_domain_documents"]:
            return False
        return record.fingerprint == self._dataset_by_records(domain)

    def shard(self, key: str) -> Shard:
        """Return the experiment's shard called ``key``."""
        return next(shard for shard in self.experiment.shards() if shard.key == key)

    def reported_models(self) -> list[str]:
        """Models with a report, and the seed, without which there is nothing to compare with."""
        return [
            key
            for key in self.present_models()
            if key == "seed" or self.store.report(key).record_path.exists()
        ]

    @looking_once()
    def stale_cells(self) -> list[tuple[str, str, str]]:
        """Reported (model, dataset, split) whose model or dataset was made anew since scored."""
        found = []
        for model in self.reported_models():
            now = self._fingerprint_now(self.store.model(model))
            report = self.store.report(model).read_record()
            for row in report.details["rows"] if report else ():
                dataset = self._fingerprint_now(self.store.dataset(row["dataset"]))
                if (row["model_fingerprint"], row["dataset_fingerprint"]) != (now, dataset):
                    found.append((model, row["dataset"], row["split"]))
        return found

    @staticmethod
    def _fingerprint_now(artifact: Artifact) -> str | None:
        record = artifact.read_record()
        return record.fingerprint if record else None

    def members(self, recipe: str) -> Members:
        """Return the models of a recipe, ``*`` written out.

        Raises:
            MergeError: the recipe names the expert of an absent domain.

        """
        return members_of(
            self.experiment.merges[recipe],
            name=recipe,
            domains=self.present_domains(),
            random_numbers=self.random_split_numbers(),
        )

    def stale(self, kind: str, key: str = "") -> Stale | None:
        """Say why the artifact would be made anew, or None if it is current."""
        try:
            if self.current(kind, key):
                return None
            expected = None if kind == "raw_pile_shard" else self.identity(kind, key)
        except MissingArtifactError:
            return Stale(kind, key, "an input is missing")
        except MdelError as error:
            return Stale(kind, key, str(error))
        return Stale(kind, key, reason_to_remake(self.artifact(kind, key), expected))

    def _current_shard(self, key: str) -> Record | None:
        from mdel_assets.data.fetch import source_signature
        from mdel_assets.data.hub_files import has_changed

        record = self.artifact("raw_pile_shard", key).last_record()
        if record is None or self.artifact("raw_pile_shard", key).damage(record):
            return None
        shard = self.shard(key)
        if shard.sha256 and shard.sha256 != record.config["sha256"]:
            return None
        recorded = record.details["source_signature"]
        if source_signature(shard.location) not in (None, recorded):
            return None
        if shard.sha256:
            return record
        moved = has_changed(shard.location, commit=recorded, sha256=record.config["sha256"])
        return None if moved else record

    def _corpus_clusters(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        assert self.experiment.clusters
        config = self._reading() | {"domains": self.experiment.clusters.model_dump(mode="json")}
        return config, [self.store.shard(self.experiment.shards()[0].key)]

    def _shard_documents(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        if self.experiment.clusters:
            return self._reading(), [self.store.shard(key), self.store.clusters()]
        domains = [d.model_dump(mode="json") for d in self.experiment.domain_table]
        return self._reading() | {"domains": domains}, [self.store.shard(key)]

    def _reading(self) -> dict[str, Any]:
        """Return how a shard's records are read."""
        source = self.experiment.source
        return source.reading(is_labelled=not self.experiment.clusters)

    def _domain_dataset(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        shards = self.experiment.shards()
        config = {
            "domain": key,
            "mixture": self.experiment.mixture.model_dump(mode="json"),
            "roles": {shard.key: shard.role for shard in shards},
            "holdout_fraction": self.experiment.source.holdout_fraction,
        }
        return config, [self.store.documents(shard.key) for shard in shards]

    def _seed_model(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        seed = self.experiment.seed_model
        inputs = []
        if seed.pretrain:
            inputs = [self.store.dataset(domain) for domain in self.experiment.domain_keys]
        unseen: Any = {"pretrain": _unseen(seed.pretrain) if seed.pretrain else set()}
        source = seed.model_dump(mode="json", exclude=unseen)
        place = self.experiment.place_of_model(seed.path or "")
        return at_commit(source, self.store.seed_model(), place=place), inputs

    def _expert_model(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        return self._training(), [self.store.dataset(key), self.store.seed_model()]

    def _variant_expert(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        variant = self.experiment.variants[key]
        config = self._training(self.experiment.variant_training(key)) | {"text": variant.text}
        return config, [self.store.dataset(variant.domain), self.store.seed_model()]

    def _training(self, training: ExpertTraining | None = None) -> dict[str, Any]:
        training = training or self.experiment.training
        return training.model_dump(mode="json", exclude={*_unseen(training), "store"})

    def _dense_baseline(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        datasets = [self.store.dataset(domain) for domain in self.present_domains()]
        return self._training(), [self.store.seed_model(), *datasets]

    _dense_one_baseline = _dense_baseline
    _random_split_expert = _dense_baseline

    def _reference_model(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        source = self.experiment.evaluation.references[key]
        place = self.experiment.place_of_model(source.path)
        content = source.model_dump(mode="json")
        return at_commit(content, self.store.reference(key), place=place), []

    def _merged_model(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        is_searched = key in self.experiment.searched_recipes
        before = self.store.search(key) if is_searched else self.store.merged(key)
        config, inputs = self._recipe(key, before=before)
        return config, [*inputs, *([before] if is_searched else [])]

    def _searched_merge(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        config, inputs = self._recipe(key, before=self.store.search(key))
        fields = {*WINDOW_SETTINGS, "splits", "max_documents", "num_bootstrap_samples", "seed"}
        config["evaluation"] = self._evaluation(fields)
        datasets = [self.store.dataset(domain) for domain in self.present_domains()]
        return config, [*inputs, *datasets]

    def _recipe(self, key: str, *, before: Artifact) -> tuple[dict[str, Any], list[Artifact]]:
        members, known = self.members(key), set(self.experiment.model_keys)
        own = [self.store.model(member.name) for member in members if member.name in known]
        last = before.last_record()
        digests = {
            member.name: outside_digest(self.experiment.place_of_model(member.name), before=last)
            for member in members
            if member.name not in known
        }
        config = recipe_config(self.experiment.merges[key], members, digests=digests)
        return config, [self.store.seed_model(), *own]

    def _layer_differences(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        experts = [self.store.expert(domain) for domain in self.present_domains()]
        return {}, [self.store.seed_model(), *experts]

    def _token_scores(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        config = self._evaluation({*WINDOW_SETTINGS, "splits", "max_documents", "seed"})
        datasets = [self.store.dataset(domain) for domain in self.present_domains()]
        return config, [self.store.model(key), *datasets]

    def _evaluation(self, fields: set[str]) -> dict[str, Any]:
        """Return settings of the evaluation; those that came later only where they say something.

        That is a budget, and special tokens that are read as text.
        """
        evaluation = self.experiment.evaluation
        fields |= set() if evaluation.max_tokens is None else {"max_tokens"}
        fields |= set() if evaluation.special_tokens == "tokens" else {"special_tokens"}
        return evaluation.model_dump(mode="json", include=fields)

    def _perplexity_report(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        fields = {"num_bootstrap_samples", "seed"}
        config = self.experiment.evaluation.model_dump(mode="json", include=fields)
        return config, [self.store.scores(key)]

    def _perplexity_matrix(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        fields = {"num_bootstrap_samples", "seed"}
        config = self.experiment.evaluation.model_dump(mode="json", include=fields)
        models = self.reported_models()
        config["unreported"] = [key for key in self.present_models() if key not in models]
        config["stale"] = ["/".join(place) for place in self.stale_cells()]
        return config, [
            *(self.store.scores(model) for model in models),
            *(self.store.report(model) for model in models),
        ]

    def _domain_router(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        evaluation = self.experiment.evaluation
        domains = self.present_domains()
        count = evaluation.ensemble.documents_per_domain(len(domains))
        config = {"documents": count, "seed": evaluation.seed}
        return config, [self.store.dataset(domain) for domain in domains]

    def _ensemble_report(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        fields = {"num_bootstrap_samples", "seed"}
        config = self.experiment.evaluation.model_dump(mode="json", include=fields)
        weighing = self.experiment.evaluation.ensemble
        config |= {"prior_decay": weighing.prior_decay, "temperature": weighing.temperature}
        scores = [self.store.scores(model) for model in self.own_models()]
        return config, [self.store.router(), *scores]

    def _sweep_report(self, key: str) -> tuple[dict[str, Any], list[Artifact]]:
        fields = {"num_bootstrap_samples", "seed"}
        config = self.experiment.evaluation.model_dump(mode="json", include=fields)
        variants = self.present_variants()
        swept = {f"expert-{self.experiment.variants[name].domain}" for name in variants}
        models = ["seed", *sorted(swept), *(f"variant-{name}" for name in variants)]
        return config, [self.store.scores(model) for model in models]
