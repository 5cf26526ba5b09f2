"""The steps of the line up to datasets, one function per asset, without Dagster.

A step resolves paths, does nothing where the artifact is already what it should be, else computes
into a staging folder and publishes it whole. It returns the artifact's record, from which both the
Dagster side and the command line tell what was made.
"""

import dataclasses
import functools
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdel_assets.artifacts import Artifact, Identity, Record
from mdel_assets.data.fetch import fetch_shard
from mdel_assets.errors import ShardError
from mdel_assets.experiment_fields import EVALUATION_SPLITS
from mdel_assets.lineage import CODE_VERSIONS, Lineage
from mdel_assets.makers import makes

_log = logging.getLogger(__name__)
_CONTAMINATION_BYTES = 1 << 30


@makes("raw_pile_shard")
def fetch_raw_shard(lineage: Lineage, shard_key: str, *, cache: Path) -> Record:
    """Fetch one shard and record its size and sha256."""
    if current := current_record(lineage, "raw_pile_shard", shard_key):
        return current
    shard = lineage.shard(shard_key)
    artifact = lineage.store.shard(shard_key)
    with artifact.staging() as stage:
        partial = cache / f"partial-{lineage.experiment.name}-{shard_key}"
        fetched = fetch_shard(
            shard.location,
            folder=stage,
            partial_folder=partial,
            sha256=shard.sha256,
            is_folder=lineage.experiment.source.layout == "folders",
        )
        identity = Identity(
            kind="raw_pile_shard",
            key=shard_key,
            experiment=lineage.experiment.name,
            code_version=CODE_VERSIONS["raw_pile_shard"],
            config={"sha256": fetched.sha256},
            inputs={},
        )
        details = {
            "file": fetched.path.name,
            "location": shard.location,
            "role": shard.role,
            "source_signature": fetched.source_signature,
        }
        counts = {"size_bytes": fetched.size_bytes}
        return artifact.publish(stage, identity, counts=counts, details=details)


@makes("corpus_clusters", has_key=False)
def make_clusters(lineage: Lineage) -> Record:
    """Find the domains of a corpus without labels in its first train shard."""
    from mdel_assets.data.unlabelled import cluster_shard

    if current := current_record(lineage, "corpus_clusters"):
        return current
    identity = lineage.identity("corpus_clusters")
    shard = lineage.store.shard(lineage.experiment.shards()[0].key)
    artifact = lineage.store.clusters()
    assert lineage.experiment.clusters
    with artifact.staging() as stage:
        fit = cluster_shard(
            shard.folder / shard.require().details["file"],
            stage,
            domains=lineage.experiment.clusters,
            source=lineage.experiment.source,
        )
        counts = {"num_documents": sum(fit.sizes)}
        return artifact.publish(stage, identity, counts=counts, details=dataclasses.asdict(fit))


@makes("shard_documents")
def route_shard(lineage: Lineage, shard_key: str) -> Record:
    """Route a shard's documents to one file per domain."""
    if current := current_record(lineage, "shard_documents", shard_key):
        return current
    identity = lineage.identity("shard_documents", shard_key)
    shard = lineage.store.shard(shard_key)
    artifact = lineage.store.documents(shard_key)
    with artifact.staging() as stage:
        try:
            counts = _route(lineage, shard, stage)
        except ShardError as error:
            kept = _keep_rejects(lineage, shard_key, stage)
            raise ShardError(f"{error}{kept}") from error
        return artifact.publish(stage, identity, counts=dataclasses.asdict(counts))


def _route(lineage: Lineage, shard: Artifact, folder: Path) -> Any:
    from mdel_assets.data.clusters import Clusters
    from mdel_assets.data.shard_pass import route_documents
    from mdel_assets.data.unlabelled import route_by_cluster

    path = shard.folder / shard.require().details["file"]
    domains, source = lineage.experiment.domain_table, lineage.experiment.source
    if not lineage.experiment.clusters:
        return route_documents(path, folder, domains=domains, source=source)
    clusters = Clusters(lineage.store.clusters().folder)
    return route_by_cluster(path, folder, clusters=clusters, domains=domains, source=source)


def _keep_rejects(lineage: Lineage, shard_key: str, stage: Path) -> str:
    """Move the rejected lines of a refused shard to where they can be looked at; say where."""
    from mdel_assets.data.document_writer import REJECTS_NAME

    found = stage / REJECTS_NAME
    if not found.exists():
        return ""
    kept = lineage.store.work_folder(f"rejects-{shard_key}") / REJECTS_NAME
    shutil.move(found, kept)
    return f" The rejected lines are in {kept}."


@makes("domain_dataset")
def assemble_domain_datasets(lineage: Lineage, domains: Sequence[str]) -> dict[str, Record]:
    """Make the datasets of ``domains`` in one pass over all documents."""
    from mdel_assets.data.assemble import write_datasets
    from mdel_assets.data.document_index import count_copies
    from mdel_assets.data.selection import select_documents
    from mdel_assets.data.tiny_corpora import require_evaluation, warn_of_untrained

    records = {d: r for d in domains if (r := current_record(lineage, "domain_dataset", d))}
    wanted = [domain for domain in domains if domain not in records]
    if not wanted:
        return records
    identities = {domain: lineage.identity("domain_dataset", domain) for domain in wanted}
    with ExitStack() as stack:
        stages = {
            domain: stack.enter_context(lineage.store.dataset(domain).staging())
            for domain in wanted
        }
        work = lineage.store.work_folder()
        with _open_index(lineage, work) as index:
            require_evaluation(index, lineage.experiment)
            mixture = lineage.experiment.mixture
            selections = select_documents(index, wanted, mixture=mixture)
            counts = write_datasets(index, selections, stages)
            corpus_bytes, duplicates = index.num_bytes, index.duplicates
        warn_of_untrained(counts)
        with ThreadPoolExecutor(_num_compared_at_once(counts)) as threads:
            measure = functools.partial(_contamination, work_folder=work)
            overlaps = dict(zip(wanted, threads.map(measure, stages.values()), strict=True))
        for domain in wanted:
            splits = {split: dataclasses.asdict(c) for split, c in counts[domain].items()}
            shared = count_copies(sorted(stages[domain].glob("*.parquet")), work_folder=work)
            records[domain] = lineage.store.dataset(domain).publish(
                stages[domain],
                identities[domain],
                counts={
                    **splits,
                    "num_shared_documents": shared,
                    "contamination": overlaps[domain],
                    "corpus_bytes": corpus_bytes,
                },
                details={"removed_from_corpus": dataclasses.asdict(duplicates)},
            )
    if advice := held_out_words(lineage, {domain: records[domain] for domain in wanted}):
        _log.warning("%s", advice)
    return {domain: records[domain] for domain in domains}


def held_out_words(lineage: Lineage, datasets: Mapping[str, Record]) -> str | None:
    """Return what to set where datasets hold out too little to judge models by; None elsewhere."""
    from mdel_assets.data.held_out import held_out_advice

    return held_out_advice(
        {domain: record.counts for domain, record in datasets.items()},
        source=lineage.experiment.source,
        splits=lineage.experiment.evaluation.splits,
    )


def _contamination(folder: Path, *, work_folder: Path) -> dict[str, dict[str, int]]:
    from mdel_assets.data.contamination import measure_contamination

    evaluation = {split: folder / f"{split}.parquet" for split in EVALUATION_SPLITS}
    found = measure_contamination(folder / "train.parquet", evaluation, work_folder=work_folder)
    return {split: dataclasses.asdict(overlap) for split, overlap in found.items()}


def _num_compared_at_once(counts: Mapping[str, Mapping[str, Any]]) -> int:
    """Return for how many datasets contamination is measured at a time: as memory allows."""
    from mdel_assets.data.contamination import memory_wanted

    largest = max(
        sum(splits[split].num_bytes for split in EVALUATION_SPLITS) for splits in counts.values()
    )
    return max(1, min(os.cpu_count() or 1, _CONTAMINATION_BYTES // memory_wanted(largest)))


def current_record(lineage: Lineage, kind: str, key: str = "") -> Record | None:
    """Return the record of an artifact that needs no making, and say so in the log."""
    record = lineage.current(kind, key)
    artifact = lineage.artifact(kind, key)
    if record:
        _log.info("%s is up to date; nothing to do", artifact.label)
        return record
    if (old := artifact.last_record()) and (problem := artifact.damage(old)):
        _log.warning("%s is damaged and made anew: %s", artifact.label, problem)
    return None


def _open_index(lineage: Lineage, work_folder: Path) -> Any:
    from mdel_assets.data.document_index import DocumentFile, DocumentIndex

    files = []
    shards = lineage.experiment.shards()
    roles = {shard.role for shard in shards}
    for position, shard in enumerate(shards):
        documents = lineage.store.documents(shard.key)
        found = documents.require().counts["domains"]
        files += [
            DocumentFile(documents.folder / f"{key}.parquet", key, shard.role, position)
            for key in lineage.experiment.domain_keys
            if key in found
        ]
    return DocumentIndex(
        files,
        holdout_fraction=lineage.experiment.source.holdout_fraction,
        shard_roles=roles,
        work_folder=work_folder,
        keep_copies=lineage.experiment.mixture.compatible_with_mdel,
    )
