"""The steps from a shard's location to datasets: each writes one kind of artifact.

They are declared in `kinds.py`; `mdel_assets.line.making` calls them.
"""

import dataclasses
import functools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mdel_assets.data.dataset_counts import Contamination, DatasetCounts
from mdel_assets.data.fetch import fetch_shard, is_remote, source_signature
from mdel_assets.data.raw_shard import RawShard
from mdel_assets.data.shard_counts import domains_of
from mdel_assets.errors import ArtifactError, ShardError
from mdel_assets.experiment.experiment import Shard
from mdel_assets.experiment.fields import EVALUATION_SPLITS
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.records import Record

_log = logging.getLogger(__name__)
_CONTAMINATION_BYTES = 1 << 30


def fetch_raw_shard(task: Task) -> Written:
    """Fetch one shard and record its size and sha256."""
    experiment = task.lineage.experiment
    shard = _shard(task.lineage, task.key)
    fetched = fetch_shard(
        shard.location,
        folder=task.folder,
        partial_folder=task.lineage.cache / f"partial-{experiment.name}-{task.key}",
        sha256=shard.sha256,
        is_folder=experiment.source.layout == "folders",
    )
    raw = RawShard(
        file=fetched.path.name,
        location=shard.location,
        role=shard.role,
        source_signature=fetched.source_signature,
        size_bytes=fetched.size_bytes,
    )
    return Written(
        counts={"size_bytes": raw.size_bytes},
        details=raw.details(),
        config={"sha256": fetched.sha256},
        known_digests=fetched.digests,
    )


def current_shard(lineage: Lineage, key: str) -> Record | None:
    """Return the record of a shard whose source is as it was fetched."""
    from mdel_assets.data.hub_files import has_changed

    artifact = lineage.artifact("raw_pile_shard", key)
    try:
        record = artifact.look()
    except ArtifactError:
        return None
    shard = _shard(lineage, key)
    if shard.sha256 and shard.sha256 != record.config["sha256"]:
        return None
    fetched = RawShard.of(record)
    recorded = fetched.source_signature
    if source_signature(shard.location) not in (None, recorded):
        return None
    if shard.sha256:
        return record
    if is_remote(shard.location) and shard.location != fetched.location:
        return None
    moved = has_changed(shard.location, commit=recorded, sha256=record.config["sha256"])
    return None if moved else record


def _shard(lineage: Lineage, key: str) -> Shard:
    return next(shard for shard in lineage.experiment.shards() if shard.key == key)


def find_clusters(task: Task) -> Written:
    """Find the domains of a corpus without labels in its first train shard."""
    from mdel_assets.data.unlabelled import cluster_shard

    experiment = task.lineage.experiment
    assert experiment.clusters
    fit = cluster_shard(
        _shard_file(task.lineage, experiment.shards()[0].key),
        task.folder,
        domains=experiment.clusters,
        source=experiment.source,
    )
    return Written(counts={"num_documents": sum(fit.sizes)}, details=dataclasses.asdict(fit))


def route_shard(task: Task) -> Written:
    """Route a shard's documents to one file per domain."""
    try:
        counts = _route(task)
    except ShardError as error:
        raise ShardError(f"{error}{_keep_rejects(task)}") from error
    return Written(counts=dataclasses.asdict(counts))


def _route(task: Task) -> Any:
    from mdel_assets.data.clusters import Clusters
    from mdel_assets.data.shard_pass import route_documents
    from mdel_assets.data.unlabelled import route_by_cluster

    lineage, experiment = task.lineage, task.lineage.experiment
    path = _shard_file(lineage, task.key)
    domains, source = experiment.domain_table, experiment.source
    if not experiment.clusters:
        return route_documents(path, task.folder, domains=domains, source=source)
    clusters = Clusters(lineage.folder("corpus_clusters"))
    return route_by_cluster(path, task.folder, clusters=clusters, domains=domains, source=source)


def _shard_file(lineage: Lineage, key: str) -> Path:
    shard = lineage.artifact("raw_pile_shard", key)
    return shard.folder / RawShard.of(shard.require()).file


def _keep_rejects(task: Task) -> str:
    """Move the rejected lines of a refused shard to where they can be looked at; say where."""
    from mdel_assets.data.document_writer import REJECTS_NAME

    found = task.folder / REJECTS_NAME
    if not found.exists():
        return ""
    kept = task.lineage.work_folder(f"rejects-{task.key}") / REJECTS_NAME
    shutil.move(found, kept)
    return f" The rejected lines are in {kept}."


def assemble_datasets(tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written]]:
    """Make the datasets of several domains in one pass over all documents."""
    from mdel_assets.data.assemble import write_datasets
    from mdel_assets.data.document_index import count_copies
    from mdel_assets.data.kept_datasets import holds_the_same, usable_again
    from mdel_assets.data.selection import select_documents
    from mdel_assets.data.tiny_corpora import require_evaluation, warn_of_untrained

    lineage = next(iter(tasks.values())).lineage
    stages = {domain: task.folder for domain, task in tasks.items()}
    earlier = {d: r for d, t in tasks.items() if (r := usable_again(t.artifact, t.identity))}
    before = {domain: tasks[domain].artifact.folder for domain in earlier}
    work = lineage.work_folder()
    with _open_index(lineage, work) as index:
        require_evaluation(index, lineage.experiment)
        selections = select_documents(index, list(tasks), mixture=lineage.experiment.mixture)
        counts = write_datasets(index, selections, stages, earlier=before)
        corpus_bytes, duplicates = index.num_bytes, index.duplicates
    warn_of_untrained(counts)
    kept = {d for d, folder in before.items() if holds_the_same(stages[d], folder)}
    overlaps = {domain: earlier[domain].counts["contamination"] for domain in kept}
    anew = {domain: stage for domain, stage in stages.items() if domain not in kept}
    with ThreadPoolExecutor(_num_compared_at_once(counts)) as threads:
        measure = functools.partial(_contamination, work_folder=work)
        overlaps |= zip(anew, threads.map(measure, anew.values()), strict=True)
    written = {}
    for domain, stage in stages.items():
        written[domain] = Written(
            counts=DatasetCounts(
                splits=counts[domain],
                contamination=overlaps[domain],
                num_shared_documents=count_copies(
                    sorted(stage.glob("*.parquet")), work_folder=work
                ),
                corpus_bytes=corpus_bytes,
            ).as_json(),
            details={"removed_from_corpus": dataclasses.asdict(duplicates)},
            known_digests=tasks[domain].artifact.digests_by_file() if domain in earlier else None,
        )
    if advice := held_out_words(lineage, {d: entry.counts for d, entry in written.items()}):
        _log.warning("%s", advice)
    yield from written.items()


def held_out_words(lineage: Lineage, counts: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what to set where datasets hold out too little to judge models by; None elsewhere.

    ``counts`` are those of the datasets' records, by domain.
    """
    from mdel_assets.data.held_out import held_out_advice

    return held_out_advice(
        {domain: DatasetCounts.of(own).splits for domain, own in counts.items()},
        source=lineage.experiment.source,
        splits=lineage.experiment.evaluation.splits,
    )


def _contamination(folder: Path, *, work_folder: Path) -> dict[str, Contamination]:
    from mdel_assets.data.contamination import measure_contamination

    evaluation = {split: folder / f"{split}.parquet" for split in EVALUATION_SPLITS}
    return measure_contamination(folder / "train.parquet", evaluation, work_folder=work_folder)


def _num_compared_at_once(counts: Mapping[str, Mapping[str, Any]]) -> int:
    """Return for how many datasets contamination is measured at a time: as memory allows."""
    from mdel_assets.data.contamination import memory_wanted

    largest = max(
        sum(splits[split].num_bytes for split in EVALUATION_SPLITS) for splits in counts.values()
    )
    return max(1, min(os.cpu_count() or 1, _CONTAMINATION_BYTES // memory_wanted(largest)))


def _open_index(lineage: Lineage, work_folder: Path) -> Any:
    from mdel_assets.data.document_index import DocumentFile, DocumentIndex

    files = []
    shards = lineage.experiment.shards()
    for position, shard in enumerate(shards):
        documents = lineage.artifact("shard_documents", shard.key)
        found = domains_of(documents.require().counts)
        files += [
            DocumentFile(documents.folder / f"{key}.parquet", key, shard.role, position)
            for key in lineage.experiment.domain_keys
            if key in found
        ]
    return DocumentIndex(
        files,
        holdout_fraction=lineage.experiment.source.holdout_fraction,
        shard_roles={shard.role for shard in shards},
        work_folder=work_folder,
        keep_copies=lineage.experiment.mixture.compatible_with_mdel,
    )
