"""ArtifactStore: the only builder of artifacts' paths."""

from pathlib import Path

from mdel_assets.artifacts import RECORD_NAME, Artifact


class ArtifactStore:
    """Builds the place of every artifact of one experiment under ``root``."""

    def __init__(self, root: Path, *, experiment: str) -> None:
        self.root = root
        self.experiment = experiment

    def _folder(self, kind: str, key: str, *parts: str) -> Artifact:
        folder = self.root.joinpath(*parts)
        return Artifact(
            kind=kind,
            key=key,
            experiment=self.experiment,
            folder=folder,
            record_path=folder / RECORD_NAME,
            remedy=_remedy(kind, key),
            work=self.root / "work",
        )

    def _files(self, kind: str, key: str, folder: Path, *, name: str) -> Artifact:
        """Build the place of files in a folder that others share."""
        return Artifact(
            kind=kind,
            key=key,
            experiment=self.experiment,
            folder=folder,
            record_path=folder / f"{name}.{RECORD_NAME}",
            remedy=_remedy(kind, key),
            work=self.root / "work",
        )

    def shard(self, key: str) -> Artifact:
        """The raw shard file."""
        return self._folder("raw_pile_shard", key, "shards", key)

    def clusters(self) -> Artifact:
        """What deals the documents of a corpus without labels to domains."""
        return self._folder("corpus_clusters", "", "clusters")

    def documents(self, shard: str) -> Artifact:
        """One Parquet file per domain."""
        return self._folder("shard_documents", shard, "documents", shard)

    def all_documents(self) -> list[Path]:
        """The records of the shards that were routed."""
        return list(self.root.glob(f"documents/[!.]*/{RECORD_NAME}"))

    def dataset(self, domain: str) -> Artifact:
        """One Parquet file per split."""
        return self._folder("domain_dataset", domain, "datasets", domain)

    def seed_model(self) -> Artifact:
        """The model that every expert branches from."""
        return self._folder("seed_model", "", "models", "seed")

    def expert(self, domain: str) -> Artifact:
        """The expert of one domain."""
        return self._folder("expert_model", domain, "models", "experts", domain)

    def merged(self, recipe: str) -> Artifact:
        """The model that one recipe makes."""
        return self._folder("merged_model", recipe, "models", "merged", recipe)

    def search(self, recipe: str) -> Artifact:
        """The weights that were searched for one recipe, and all trials."""
        return self._folder("searched_merge", recipe, "searches", recipe)

    def differences(self, domain: str) -> Artifact:
        """How far the expert of one domain moved, layer by layer."""
        return self._folder("layer_differences", domain, "differences", domain)

    def dense(self) -> Artifact:
        """The baseline with as many tokens as all experts together."""
        return self._folder("dense_baseline", "", "models", "dense")

    def dense_one(self) -> Artifact:
        """The baseline with as many tokens as one expert."""
        return self._folder("dense_one_baseline", "", "models", "dense-one")

    def random_expert(self, number: str) -> Artifact:
        """One expert of the random split."""
        return self._folder("random_split_expert", number, "models", "random", number)

    def variant(self, name: str) -> Artifact:
        """One expert of a sweep."""
        return self._folder("variant_expert", name, "models", "variants", name)

    def reference(self, name: str) -> Artifact:
        """A model from elsewhere, to compare with."""
        return self._folder("reference_model", name, "models", "references", name)

    def model(self, model_key: str) -> Artifact:
        """The model called ``model_key``, one of `Experiment.model_keys`."""
        only_one = {
            "seed": self.seed_model,
            "dense": self.dense,
            "dense-one": self.dense_one,
        }
        if model_key in only_one:
            return only_one[model_key]()
        family, _, name = model_key.partition("-")
        one_of_many = {
            "expert": self.expert,
            "random": self.random_expert,
            "merged": self.merged,
            "reference": self.reference,
            "variant": self.variant,
        }
        return one_of_many[family](name)

    def scores(self, model_key: str) -> Artifact:
        """Per-token log-probabilities of one model."""
        return self._folder("token_scores", model_key, "scores", model_key)

    def report(self, model_key: str) -> Artifact:
        """One model's perplexity table."""
        folder = self.root / "reports" / "perplexity"
        return self._files("perplexity_report", model_key, folder, name=model_key)

    def matrix(self) -> Artifact:
        """Models by domains by splits."""
        return self._folder("perplexity_matrix", "", "reports")

    def router(self) -> Artifact:
        """What tells a text's domain from its beginning."""
        return self._folder("domain_router", "", "router")

    def ensemble(self) -> Artifact:
        """Ensembles of experts beside single models."""
        return self._files("ensemble_report", "", self.root / "reports", name="ensemble")

    def publication(self, kind: str, key: str) -> Artifact:
        """What was last published of ``kind``: its card, and where it went."""
        return self._folder(kind, key, "publications", kind.removeprefix("hub_"), key)

    @property
    def forgotten(self) -> Path:
        """The list of artifacts that are not to be published any more."""
        return self.root / "forgotten.json"

    def sweep(self) -> Artifact:
        """Variants of experts beside the experts."""
        return self._files("sweep_report", "", self.root / "reports", name="sweep")

    def work_folder(self, *parts: str) -> Path:
        """A folder for resumable work in progress, outside every artifact."""
        folder = self.root.joinpath("work", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _remedy(kind: str, key: str) -> str:
    partition = f" --partition {key}" if key else ""
    return (
        f"run 'mdel dg launch --assets {kind}{partition}', or 'mdel run' for everything that is "
        f"missing"
    )
