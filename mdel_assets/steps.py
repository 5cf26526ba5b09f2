"""The steps of the line up to experts and baselines, one function per asset, without Dagster.

A step resolves paths, does nothing where the artifact is already what it should be, else computes
into a staging folder and publishes it whole. It returns the artifact's record, from which both the
Dagster side and the command line tell what was made.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mdel_assets.artifacts import Artifact, Identity, Record
from mdel_assets.data.fetch import fetch_shard
from mdel_assets.errors import ShardError
from mdel_assets.experiment_fields import EVALUATION_SPLITS, ModelSource
from mdel_assets.hub_sources import local_model
from mdel_assets.lineage import CODE_VERSIONS, Lineage

_log = logging.getLogger(__name__)


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


def assemble_domain_datasets(lineage: Lineage, domains: Sequence[str]) -> dict[str, Record]:
    """Make the datasets of ``domains`` in one pass over all documents."""
    from mdel_assets.data.assemble import select_documents, shared_documents, write_datasets

    records = {d: r for d in domains if (r := current_record(lineage, "domain_dataset", d))}
    wanted = [domain for domain in domains if domain not in records]
    if not wanted:
        return records
    identities = {domain: lineage.identity("domain_dataset", domain) for domain in wanted}
    index = _build_index(lineage)
    selections = {
        domain: select_documents(index, domain, mixture=lineage.experiment.mixture)
        for domain in wanted
    }
    with ExitStack() as stack:
        stages = {
            domain: stack.enter_context(lineage.store.dataset(domain).staging())
            for domain in wanted
        }
        counts = write_datasets(index, selections, stages)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            overlaps = dict(zip(wanted, threads.map(_contamination, stages.values()), strict=True))
        corpus_bytes = int(index.num_bytes.sum())
        for domain in wanted:
            splits = {split: dataclasses.asdict(c) for split, c in counts[domain].items()}
            shared = shared_documents(sorted(stages[domain].glob("*.parquet")))
            records[domain] = lineage.store.dataset(domain).publish(
                stages[domain],
                identities[domain],
                counts={
                    **splits,
                    "num_shared_documents": shared,
                    "contamination": overlaps[domain],
                    "corpus_bytes": corpus_bytes,
                },
                details={"removed_from_corpus": dataclasses.asdict(index.duplicates)},
            )
    return {domain: records[domain] for domain in domains}


def _contamination(folder: Path) -> dict[str, dict[str, int]]:
    from mdel_assets.data.contamination import measure_contamination

    evaluation = {split: folder / f"{split}.parquet" for split in EVALUATION_SPLITS}
    found = measure_contamination(folder / "train.parquet", evaluation)
    return {split: dataclasses.asdict(overlap) for split, overlap in found.items()}


def make_seed(lineage: Lineage, *, cache: Path, max_seconds: float | None = None) -> Record:
    """Adopt or pretrain the seed model."""
    from mdel_assets.training.seed import adopt_model, pretrain_seed

    if current := current_record(lineage, "seed_model"):
        return current
    identity = lineage.identity("seed_model")
    artifact = lineage.store.seed_model()
    seed = lineage.experiment.seed_model
    with artifact.staging() as stage:
        if seed.pretrain:
            domains = lineage.present_domains()
            work = lineage.store.work_folder(f"seed-{identity.fingerprint}")
            result = pretrain_seed(
                seed.pretrain,
                stage,
                datasets={domain: lineage.store.dataset(domain).folder for domain in domains},
                work_folder=work,
                max_seconds=max_seconds,
            )
            record = artifact.publish(stage, identity, details=dataclasses.asdict(result))
            shutil.rmtree(work)
            return record
        assert seed.path
        commit = identity.config.get("commit")
        path = local_model(seed.path, revision=seed.revision, commit=commit)
        source = ModelSource(path=path, revision=seed.revision)
        result = adopt_model(source, stage, cache=cache)
        return artifact.publish(stage, identity, details=dataclasses.asdict(result))


def make_expert(lineage: Lineage, domain: str, *, max_seconds: float | None = None) -> Record:
    """Train the expert of one domain, going on from a checkpoint where there is one."""
    from mdel_assets.training.expert import train_expert

    if current := current_record(lineage, "expert_model", domain):
        return current
    identity = lineage.identity("expert_model", domain)
    artifact = lineage.store.expert(domain)
    work = lineage.store.work_folder(f"expert-{domain}-{identity.fingerprint}")
    with artifact.staging() as stage:
        result = train_expert(
            lineage.experiment.training,
            seed_folder=lineage.store.seed_model().folder,
            dataset_folder=lineage.store.dataset(domain).folder,
            folder=stage,
            work_folder=work,
            max_seconds=max_seconds,
        )
        record = artifact.publish(stage, identity, details=dataclasses.asdict(result))
    shutil.rmtree(work)
    return record


def make_dense(lineage: Lineage, *, max_seconds: float | None = None) -> Record:
    """Train the seed on as many tokens as all experts together, of all their datasets."""
    num_experts = len(lineage.present_domains())
    return _make_baseline(
        lineage, "dense_baseline", num_experts=num_experts, max_seconds=max_seconds
    )


def make_dense_one(lineage: Lineage, *, max_seconds: float | None = None) -> Record:
    """Train the seed on as many tokens as one expert, of all their datasets."""
    return _make_baseline(lineage, "dense_one_baseline", max_seconds=max_seconds)


def make_random_expert(
    lineage: Lineage, number: str, *, max_seconds: float | None = None
) -> Record:
    """Train one expert of the random split: one expert's tokens, of documents dealt at random."""
    return _make_baseline(lineage, "random_split_expert", number, max_seconds=max_seconds)


def _make_baseline(
    lineage: Lineage,
    kind: str,
    key: str = "",
    *,
    num_experts: int = 1,
    max_seconds: float | None = None,
) -> Record:
    """Train one model on as many tokens as ``num_experts`` experts read; ``key`` numbers a part."""
    from mdel_assets.training.baseline import Part, train_baseline

    if current := current_record(lineage, kind, key):
        return current
    identity = lineage.identity(kind, key)
    artifact = lineage.artifact(kind, key)
    domains = lineage.present_domains()
    work = lineage.store.work_folder(f"{kind}-{identity.fingerprint}")
    with artifact.staging() as stage:
        result = train_baseline(
            lineage.experiment.training,
            num_tokens=num_experts * lineage.experiment.training.num_tokens_read,
            seed_folder=lineage.store.seed_model().folder,
            dataset_folders={domain: lineage.store.dataset(domain).folder for domain in domains},
            folder=stage,
            work_folder=work,
            part=Part(int(key) - 1, len(domains)) if key else None,
            max_seconds=max_seconds,
        )
        record = artifact.publish(stage, identity, details=dataclasses.asdict(result))
    shutil.rmtree(work)
    return record


def make_reference(lineage: Lineage, name: str, *, cache: Path) -> Record:
    """Fetch a model to compare with."""
    from mdel_assets.training.seed import adopt_model

    if current := current_record(lineage, "reference_model", name):
        return current
    identity = lineage.identity("reference_model", name)
    artifact = lineage.store.reference(name)
    with artifact.staging() as stage:
        named = lineage.experiment.evaluation.references[name]
        commit = identity.config.get("commit")
        path = local_model(named.path, revision=named.revision, commit=commit)
        result = adopt_model(named.model_copy(update={"path": path}), stage, cache=cache)
        return artifact.publish(stage, identity, details=dataclasses.asdict(result))


def current_record(lineage: Lineage, kind: str, key: str = "") -> Record | None:
    """Return the record of an artifact that needs no making, and say so in the log."""
    record = lineage.current(kind, key)
    if record:
        _log.info("%s is up to date; nothing to do", lineage.artifact(kind, key).label)
    return record


def _build_index(lineage: Lineage) -> Any:
    from mdel_assets.data.document_index import DocumentFile, build_index

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
    return build_index(
        files,
        holdout_fraction=lineage.experiment.source.holdout_fraction,
        shard_roles=roles,
        keep_copies=lineage.experiment.mixture.compatible_with_mdel,
    )
