"""Forgetting a domain: what was made from its text, by lineage; marking it, or removing it.

Lineage is read from the records on disk, so that it also holds for what the experiment no longer
names. A dataset of another domain is made from it, too, where its general half holds its documents.
"""

import dataclasses
import functools
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mdel_assets.artifacts import Artifact, Record
from mdel_assets.durable_files import write_text_atomically
from mdel_assets.errors import MdelError, PublishingError
from mdel_assets.lineage import Lineage
from mdel_assets.publishing.backend import Repository
from mdel_assets.publishing.publication import publishing_with_patience
from mdel_assets.publishing.publisher import open_backend
from mdel_assets.retries import Patience

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Derived:
    """An artifact that was made from a domain's text, and how."""

    artifact: Artifact
    record: Record
    reason: str


@dataclasses.dataclass(frozen=True)
class Traces:
    """All that is left of a domain.

    ``text_files`` hold its text alone, ``shards`` among other text. ``derived`` are artifacts,
    ``publications`` records of what was published of them.
    """

    domain: str
    text_files: Sequence[str]
    shards: Sequence[str]
    derived: Sequence[Derived]
    publications: Sequence[Derived]

    @property
    def repositories(self) -> list[str]:
        """Where something is published, as ``kind owner/name on PLACE``."""
        told = [entry.record.details for entry in self.publications]
        return [f"{d['repository_kind']} {d['repository']} on {d['location']}" for d in told]


def find_traces(lineage: Lineage, domain: str) -> Traces:
    """Return everything in the experiment's folder that was made from the text of ``domain``.

    Raises:
        UnknownKeyError: the experiment has no such domain.

    """
    lineage.experiment.require_domain(domain)
    store = lineage.store
    reasons = _tainted_datasets(lineage, domain)
    derived: list[Derived] = []
    for artifact in _artifacts(lineage):
        record = artifact.read_record()
        if reason := _reason(artifact, _sources(lineage, artifact, record), reasons):
            reasons[artifact.label] = reason
            derived += [Derived(artifact, record, reason)] if record else []
    publications = [
        Derived(artifact, record, "published")
        for artifact in _publications(lineage)
        # What it was made of may be gone already.
        if (record := artifact.read_record()) and domain in record.details["domains"]
    ]
    shards = [shard.key for shard in lineage.experiment.shards()]
    texts = [store.documents(key).folder / f"{domain}.parquet" for key in shards]
    raw = [store.shard(key).folder for key in shards]
    return Traces(
        domain=domain,
        text_files=[str(path) for path in texts if path.exists()],
        shards=[str(path) for path in raw if path.exists()],
        derived=derived,
        publications=publications,
    )


def mark_forgotten(lineage: Lineage, traces: Traces) -> None:
    """Write down what is to be forgotten: publishing refuses it from now on."""
    marked = dict(_forgotten(lineage))
    for entry in traces.derived:
        marked[entry.record.fingerprint] = f"{entry.artifact.label}, of '{traces.domain}'"
    text = json.dumps(marked, indent=2, sort_keys=True)
    write_text_atomically(lineage.store.forgotten, text + "\n")


def refuse_forgotten(lineage: Lineage, artifact: Artifact) -> None:
    """Raise `PublishingError` where ``artifact`` was marked as forgotten."""
    record = artifact.read_record()
    told = _forgotten(lineage).get(record.fingerprint) if record else None
    if told:
        raise PublishingError(
            f"{artifact.label} is marked as forgotten ({told}): make it anew without that domain, "
            f"or take its line out of {lineage.store.forgotten}."
        )


def delete_local(lineage: Lineage, traces: Traces) -> None:
    """Remove the artifacts and the text files of ``traces``, and all work in progress.

    Raw shards stay: they hold other text, too. So do records of what is published.
    """
    for entry in reversed(traces.derived):
        _remove(entry.artifact, entry.record)
    for shard in lineage.experiment.shards():
        (lineage.store.documents(shard.key).folder / f"{traces.domain}.parquet").unlink(
            missing_ok=True
        )
    shutil.rmtree(lineage.store.work_folder())


def delete_remote(traces: Traces, *, patience: Patience | None = None) -> Iterator[str]:
    """Delete every repository that ``traces`` names, and its record; yield each when it is gone.

    Raises:
        MissingTokenError: one is on a Hub, and there is no token.
        PublishingError: a server refused.

    """
    for entry, told in zip(traces.publications, traces.repositories, strict=True):
        details = entry.record.details
        backend = open_backend(details["location"])
        repository = Repository(details["repository_kind"], details["repository"])
        publishing_with_patience(
            functools.partial(backend.delete, repository),
            what=f"deleting {repository}",
            patience=patience or Patience(),
        )
        _remove(entry.artifact, entry.record)
        yield told


def _sources(lineage: Lineage, artifact: Artifact, record: Record | None) -> Sequence[str]:
    """Return the labels of what an artifact was made from; would be, where it is gone."""
    if record:
        return list(record.inputs)
    try:
        return [entry.label for entry in lineage.inputs(artifact.kind, artifact.key)]
    except MdelError:
        return []


def _reason(artifact: Artifact, made_of: Sequence[str], reasons: Mapping[str, str]) -> str | None:
    """Return how an artifact is made from what ``reasons`` names; None if it is not."""
    if artifact.label in reasons:
        return reasons[artifact.label]
    sources = [label for label in made_of if label in reasons]
    if not sources:
        return None
    return f"made from {sources[0]}" + (f" and {len(sources) - 1} more" if sources[1:] else "")


def _publications(lineage: Lineage) -> Iterator[Artifact]:
    """Yield the places of all records of publications."""
    for kind in ("hub_dataset", "hub_expert"):
        for key in lineage.experiment.domain_keys:
            yield lineage.store.publication(kind, key)
    for key in lineage.experiment.merges:
        yield lineage.store.publication("hub_merged_model", key)


def _artifacts(lineage: Lineage) -> Iterator[Artifact]:
    """Yield the places of all artifacts, in the order of the line."""
    experiment = lineage.experiment
    domains, recipes = experiment.domain_keys, list(experiment.merges)
    rows: list[tuple[str, Sequence[str]]] = [
        ("domain_dataset", domains),
        ("seed_model", [""]),
        ("expert_model", domains),
        ("dense_one_baseline", [""]),
        ("dense_baseline", [""]),
        ("random_split_expert", experiment.random_split_keys),
        ("variant_expert", list(experiment.variants)),
        ("layer_differences", domains),
        ("merged_model", recipes),
        ("token_scores", experiment.model_keys),
        ("perplexity_report", experiment.model_keys),
        ("perplexity_matrix", [""]),
        ("domain_router", [""]),
        ("ensemble_report", [""]),
        ("sweep_report", [""]),
    ]
    for kind, keys in rows:
        for key in keys:
            yield lineage.artifact(kind, key)


def _tainted_datasets(lineage: Lineage, domain: str) -> dict[str, str]:
    """Return why datasets are made from ``domain``, by their labels."""
    from mdel_assets.publishing.dataset_card import documents_by_domain

    found = {}
    for key in lineage.experiment.domain_keys:
        artifact = lineage.store.dataset(key)
        if artifact.read_record() is None:
            continue
        count = documents_by_domain(artifact.folder).get(domain, 0)
        if key == domain:
            found[artifact.label] = "its dataset"
        elif count:
            found[artifact.label] = f"{count:,} of its documents in the general half"
    return found


def _remove(artifact: Artifact, record: Record) -> None:
    if artifact.owns_folder:
        shutil.rmtree(artifact.folder)
        return
    for name in record.files:
        (artifact.folder / name).unlink(missing_ok=True)
    artifact.record_path.unlink()


def _forgotten(lineage: Lineage) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = json.loads(lineage.store.forgotten.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return content
