"""The line: which artifacts an experiment has, in the order in which they are made.

A domain that the corpus lacks is *absent*: its dataset and its expert are neither expected nor
missed. Which domains there are, the records of the routed shards and of the datasets say.
"""

from collections.abc import Iterator

from mdel_assets.artifact_store import ArtifactStore
from mdel_assets.errors import ExperimentError
from mdel_assets.experiment import Experiment


class Line:
    """The artifacts of one experiment, by kind and key."""

    def __init__(self, experiment: Experiment, store: ArtifactStore) -> None:
        self.experiment = experiment
        self.store = store

    def kinds(self) -> list[str]:
        """Return the kinds of artifact that the experiment has, in the order of the line."""
        experiment, dense = self.experiment, self.experiment.dense_keys
        is_in_line = {
            "raw_pile_shard": True,
            "corpus_clusters": experiment.clusters is not None,
            "shard_documents": True,
            "domain_dataset": True,
            "seed_model": True,
            "expert_model": True,
            "dense_one_baseline": "dense-one" in dense,
            "dense_baseline": "dense" in dense,
            "random_split_expert": experiment.baselines.random_split,
            "variant_expert": bool(experiment.variants),
            "layer_differences": True,
            "searched_merge": bool(experiment.searched_recipes),
            "merged_model": bool(experiment.merges),
            "reference_model": bool(experiment.evaluation.references),
            "token_scores": True,
            "perplexity_report": True,
            "perplexity_matrix": True,
            "domain_router": len(experiment.domain_keys) > 1,
            "ensemble_report": len(experiment.domain_keys) > 1,
            "sweep_report": bool(experiment.variants),
        }
        return [kind for kind, is_there in is_in_line.items() if is_there]

    def keys(self, kind: str) -> list[str]:
        """Return the keys of a kind's artifacts, as far as the corpus has them.

        Raises:
            MissingArtifactError: which of them there are is not known before the datasets are made.

        """
        experiment = self.experiment
        match kind:
            case "raw_pile_shard" | "shard_documents":
                return [shard.key for shard in experiment.shards()]
            case "domain_dataset":
                absent = self.unrouted_domains()
                return [key for key in experiment.domain_keys if key not in absent]
            case "expert_model" | "layer_differences":
                return self.present_domains()
            case "random_split_expert":
                return self.random_split_numbers()
            case "variant_expert":
                return self.present_variants()
            case "searched_merge":
                return experiment.searched_recipes
            case "merged_model":
                return list(experiment.merges)
            case "reference_model":
                return list(experiment.evaluation.references)
            case "token_scores" | "perplexity_report":
                return self.present_models()
            case "domain_router" | "ensemble_report":
                return [""] if self.has_ensembles() else []
            case "sweep_report":
                return [""] if self.present_variants() else []
        return [""]

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield (kind, keys) in the order of the line; later keys depend on earlier artifacts."""
        for kind in self.kinds():
            yield kind, self.keys(kind)

    def present_domains(self) -> list[str]:
        """Domains with training documents, by the records of shards and datasets.

        Raises:
            MissingArtifactError: the dataset of a domain that a shard has was never made.

        """
        return [key for key in self.keys("domain_dataset") if self._has_training_text(key)]

    def is_present(self, domain: str) -> bool:
        """Whether the corpus has training documents of ``domain``; raises as `present_domains`."""
        return domain not in self.unrouted_domains() and self._has_training_text(domain)

    def _has_training_text(self, domain: str) -> bool:
        record = self.store.dataset(domain).require()
        return bool(record.counts["train"]["num_domain_documents"])

    def unrouted_domains(self) -> set[str]:
        """Domains that no shard has a document of; none before every shard has been routed.

        A domain whose row in the experiment was not yet there when a shard was routed, or was
        another, is not known to be absent.
        """
        table = {d.key: d.model_dump(mode="json") for d in self.experiment.domain_table}
        absent = set(table)
        for shard in self._shard_keys():
            record = self.store.documents(shard).read_record()
            if record is None:
                return set()
            absent -= record.counts["domains"].keys()
            looked_for = record.config.get("domains", table.values())
            absent = {key for key in absent if table[key] in looked_for}
        return absent

    def _shard_keys(self) -> list[str]:
        """Return the keys of the shards; of those that were routed, where their files are gone."""
        try:
            return [shard.key for shard in self.experiment.shards()]
        except ExperimentError:
            return sorted(path.parent.name for path in self.store.all_documents())

    def present_models(self) -> list[str]:
        """Models that exist or could: experts of absent domains are left out."""
        experts = {f"expert-{key}" for key in self.present_domains()}
        numbers = {f"random-{key}" for key in self.random_split_numbers()}
        variants = {f"variant-{name}" for name in self.present_variants()}
        return [
            key
            for key in self.experiment.model_keys
            if not key.startswith(("expert-", "random-", "variant-"))
            or key in experts | numbers | variants
        ]

    def present_variants(self) -> list[str]:
        """Variants of experts whose domain has training documents."""
        variants = self.experiment.variants
        return [name for name, variant in variants.items() if self.is_present(variant.domain)]

    def own_models(self) -> list[str]:
        """`present_models` without those from elsewhere."""
        return [key for key in self.present_models() if not key.startswith("reference-")]

    def random_split_numbers(self) -> list[str]:
        """Return the random split's numbers: as many as there are experts."""
        return self.experiment.random_split_keys[: len(self.present_domains())]

    def has_ensembles(self) -> bool:
        """Whether there are at least two experts to weigh against each other."""
        return len(self.present_domains()) > 1
