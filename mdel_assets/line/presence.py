"""Which domains the corpus has, and so which artifacts of the experiment there are to make.

A domain that the corpus lacks is *absent*: its dataset and its expert are neither expected nor
missed. The records of the routed shards and of the datasets tell which domains there are, so these
two kinds are known here by name.
"""

import fnmatch
from collections.abc import Iterator
from pathlib import Path, PurePath

from mdel_assets.errors import ExperimentError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Kind, model_input, model_key
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Record
from mdel_assets.store.remote.object_store import ObjectStore, RemotePlace

DOCUMENTS, DATASET = "shard_documents", "domain_dataset"
_REMEDY = (
    "run 'mdel dg launch --assets {kind}{partition}', or 'mdel run' for everything that is missing"
)


def has_training_text(dataset: Record) -> bool:
    """Whether a dataset has training documents of its own domain, by its record."""
    return bool(dataset.counts["train"]["num_domain_documents"])


class Presence:
    """The artifacts of one experiment, by kind and key, as far as the corpus has them.

    ``root`` is the experiment's folder, ``cache`` where what can be fetched again is kept.
    ``remote`` is the object store that holds artifacts too, if there is one.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        root: Path,
        cache: Path,
        registry: tuple[Kind, ...],
        remote: ObjectStore | None = None,
    ) -> None:
        self.experiment = experiment
        self.root = root
        self.cache = cache
        self.registry = {kind.name: kind for kind in registry}
        self.remote = remote

    def artifact(self, kind: str, key: str = "") -> Artifact:
        """Return the place of an artifact."""
        declared = self.registry[kind]
        record_path = self.root / declared.record_place.format(key=key)
        partition = f" --partition {key}" if key else ""
        remote, links_to = None, None
        if self.remote:
            remote = RemotePlace(self.remote, str(record_path.relative_to(self.root.parent)))
            links_to = self.artifact(declared.links_to) if declared.links_to else None
        return Artifact(
            kind=kind,
            key=key,
            experiment=self.experiment.name,
            folder=record_path.parent,
            record_path=record_path,
            remedy=_REMEDY.format(kind=kind, partition=partition),
            work=self.root / "work",
            owns_folder=declared.owns_folder,
            remote=remote,
            links_to=links_to,
        )

    def folder(self, kind: str, key: str = "") -> Path:
        """Return the folder of an artifact."""
        return self.artifact(kind, key).folder

    def required(self, kind: str, key: str = "") -> Path:
        """Return the folder of an artifact that is here and whole; raises as `Artifact.require`."""
        artifact = self.artifact(kind, key)
        artifact.require()
        return artifact.folder

    def model(self, name: str) -> Artifact:
        """Return the place of the model called ``name``, one of `Experiment.model_keys`."""
        return self.artifact(*model_input(self.registry.values(), name))

    def work_folder(self, *parts: str) -> Path:
        """Return a folder for resumable work in progress, outside every artifact."""
        folder = self.root.joinpath("work", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def forgotten(self) -> Path:
        """The list of artifacts that are not to be published any more."""
        return self.root / "forgotten.json"

    def kinds(self) -> list[str]:
        """Return the kinds of artifact that the experiment has, in the order of the line."""
        return [
            name
            for name, kind in self.registry.items()
            if kind.is_in_line and kind.is_in(self.experiment)
        ]

    def keys(self, kind: str) -> list[str]:
        """Return the keys of a kind's artifacts, as far as the corpus has them.

        Raises:
            MissingArtifactError: which of them there are is not known before the datasets are made.

        """
        declared = self.registry[kind]
        keys = list(declared.keys(self.experiment))
        if declared.absent is None or not keys:
            return keys
        domains = self.unrouted_domains() if kind == DATASET else self._domains_without_text()
        absent = declared.absent(self.experiment, domains)
        return [key for key in keys if key not in absent]

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield (kind, keys) in the order of the line; later keys depend on earlier artifacts."""
        for kind in self.kinds():
            yield kind, self.keys(kind)

    def present_domains(self) -> list[str]:
        """Domains with training documents, by the records of shards and datasets.

        Raises:
            MissingArtifactError: the dataset of a domain that a shard has was never made.

        """
        return [key for key in self.keys(DATASET) if self._has_training_text(key)]

    def is_present(self, domain: str) -> bool:
        """Whether the corpus has training documents of ``domain``; raises as `present_domains`."""
        return domain not in self.unrouted_domains() and self._has_training_text(domain)

    def _domains_without_text(self) -> list[str]:
        present = self.present_domains()
        return [key for key in self.experiment.domain_keys if key not in present]

    def _has_training_text(self, domain: str) -> bool:
        return has_training_text(self.artifact(DATASET, domain).look())

    def unrouted_domains(self) -> set[str]:
        """Domains that no shard has a document of; none before every shard has been routed.

        A domain whose row in the experiment was not yet there when a shard was routed, or was
        another, is not known to be absent.
        """
        table = {domain.key: domain.made_of() for domain in self.experiment.domain_table}
        absent = set(table)
        for shard in self._shard_keys():
            record = self.artifact(DOCUMENTS, shard).read_record()
            if record is None:
                return set()
            absent -= record.counts["domains"].keys()
            looked_for = record.config.get("domains", table.values())
            absent = {key for key in absent if table[key] in looked_for}
        return absent

    def _shard_keys(self) -> list[str]:
        """Return the keys of the shards; of those that were routed, where their files are gone."""
        try:
            return list(self.registry[DOCUMENTS].keys(self.experiment))
        except ExperimentError:
            place = self.registry[DOCUMENTS].place.format(key="[!.]*")
            here = {path.parent.name for path in self.root.glob(f"{place}/{RECORD_NAME}")}
            there = self.remote.places(self.experiment.name) if self.remote else ()
            found = fnmatch.filter(there, f"{self.experiment.name}/{place}/{RECORD_NAME}")
            return sorted(here | {PurePath(path).parent.name for path in found})

    def present_models(self) -> list[str]:
        """Models that exist or could: experts of absent domains are left out."""
        found = []
        for kind in self.registry.values():
            is_model = kind.family and not kind.replicate_of
            if is_model and kind.is_in(self.experiment):
                found += [model_key(kind.family, key) for key in self.keys(kind.name)]
        return [key for key in self.experiment.model_keys if key in found]
