"""Data assets: raw shard, routed documents, domain datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.data.raw_shard import RawShard
from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.data.steps import held_out_words
from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.data_metadata import dataset_metadata, shard_metadata
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import (
    Described,
    barring,
    link,
    note_partitions,
    page,
    result_of,
    results_of,
    shard_address,
    table,
)
from mdel_assets.defs.network import retrying_transient_errors
from mdel_assets.defs.resources import Workspace
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import make_one
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.digests import sha256_of
from mdel_assets.store.records import Record

_MAX_CONTAMINATED_SHARE = 1e-3
_NUM_NAMED = 3


def data_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``data``; ``compute`` says how to backfill them."""
    experiment = line.experiment

    @line.asset(
        "raw_pile_shard",
        group="data",
        icons={"file"},
        blocking_checks={
            "shard_is_whole": "The file's sha256 is the one that was recorded when it was fetched."
        },
    )
    def raw_pile_shard(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One file of the corpus, fetched from a path, an https address or the Hub, and verified.

        Size and sha256 are recorded, and compared with `source.sha256` if the experiment gives one.
        An interrupted download continues where it stopped.
        """
        lineage = workspace.lineage(experiment)
        shard = context.partition_key
        with retrying_transient_errors(context):
            record = make_one(lineage, "raw_pile_shard", shard)
        artifact = lineage.artifact("raw_pile_shard", shard)
        raw = RawShard.of(record)
        seen = sha256_of(artifact.folder / raw.file)
        metadata = {
            "location": raw.location,
            "role": raw.role,
            "size_bytes": raw.size_bytes,
            "sha256": record.config["sha256"],
            **link("source", shard_address(raw.location, commit=raw.source_signature)),
        }
        is_whole = dg.AssetCheckResult(
            passed=seen == record.config["sha256"],
            check_name="shard_is_whole",
            description="The file is the one that was fetched."
            if seen == record.config["sha256"]
            else "The file has changed since it was fetched: materialize raw_pile_shard again.",
            metadata={"sha256_now": seen, "sha256_recorded": record.config["sha256"]},
        )
        failed = [] if is_whole.passed else [artifact]
        return result_of(record, artifact, metadata, barring(is_whole, failed))

    @line.asset(
        "shard_documents",
        group="data",
        icons={"parquet"},
        metadata=columns.of(columns.SHARD_DOCUMENTS),
        blocking_checks={
            "every_line_is_counted": "Every line of the shard is a row of a Parquet file, or "
            "counted as blank, as without text, as of a licence that is not allowed, or as of a "
            "label that is left out."
        },
        backfill_policy=compute.backfill_policy("shard_documents"),
    )
    def shard_documents(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """All documents of one shard, routed to one Parquet file per domain in a single pass.

        A document's label names its domain; in a corpus without labels, its cluster is the domain.
        Rejected lines are kept in `rejects.parquet` with file, line number, reason and raw bytes. A
        shard is refused if it is truncated or corrupt, or if the share of rejected lines is above
        `source.max_reject_rate`.
        """
        lineage = workspace.lineage(experiment)

        def describe(record: Record, artifact: Artifact) -> Described:
            return shard_metadata(record), [_every_line_is_counted(record, artifact)]

        made = compute.made(context, lineage, context.partition_keys)
        return results_of(context, made, describe, lineage=lineage)

    @line.asset(
        "domain_dataset",
        group="data",
        icons={"parquet", "huggingface"},
        metadata=columns.of(columns.DOMAIN_DATASET),
        blocking_checks={"splits_are_disjoint": "No document is in two splits."},
        checks={
            "evaluation_is_uncontaminated": "Warns where more than 0.1 % of an evaluation split's "
            "documents share 13 words in a row with the training split."
        },
        backfill_policy=AllInOneRun(),
        pool="cpu",
    )
    def domain_dataset(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """One domain's dataset: all its documents, an equal general half, five splits.

        The general half is drawn from the other domains by a seeded hash. No document is in two
        splits; duplicates within and across shards are removed. Load it with
        `datasets.load_dataset(folder)`. A domain that the corpus lacks has no dataset.
        """
        lineage = workspace.lineage(experiment)
        made = compute.made(context, lineage, context.partition_keys)
        records, pages = made.records, {}
        tokenizer = _tokenizer(experiment, lineage)
        for key, record in records.items():
            artifact = lineage.artifact("domain_dataset", key)
            shown = dataset_metadata(record, artifact, tokenizer=tokenizer)
            advice = held_out_words(lineage, {key: record.counts})
            warning = {"too_few_held_out": advice} if advice else {}
            pages[key] = page({**warning, **shown}, record, artifact)
        note_partitions(context, pages, fails=bool(made.failures))
        made.raise_failures()
        return dg.MaterializeResult(
            check_results=[
                _splits_are_disjoint(
                    records,
                    {key: lineage.artifact("domain_dataset", key) for key in records},
                    expected=not experiment.mixture.compatible_with_mdel,
                ),
                evaluation_is_uncontaminated(records),
            ]
        )

    return [raw_pile_shard, shard_documents, domain_dataset]


def _every_line_is_counted(record: Record, artifact: Artifact) -> dg.AssetCheckResult:
    """Compare the number of lines read with the rows of the Parquet files plus lines left out.

    Left out are blank lines, documents without text, documents with a licence that the experiment
    does not allow, and, depending on `source.other_labels`, documents with a label of no domain.
    """
    import pyarrow.parquet as pq

    counts = ShardCounts.of(record.counts)
    rows = sum(pq.read_metadata(path).num_rows for path in artifact.folder.glob("*.parquet"))
    left_out = counts.num_blank_lines + counts.num_without_text
    left_out += counts.num_filtered + counts.num_unclaimed
    lost = counts.num_lines - rows - left_out
    check = dg.AssetCheckResult(
        passed=not lost,
        check_name="every_line_is_counted",
        description=f"Of {counts.num_lines:,} lines, {rows:,} are rows and {left_out:,} were "
        f"left out{f'; {lost:,} are neither: materialize it again' if lost else ''}.",
        metadata={"lines_in": counts.num_lines, "rows_out": rows, "lines_left_out": left_out},
    )
    return barring(check, [artifact] if lost else [])


def _splits_are_disjoint(
    records: Mapping[str, Record], artifacts: Mapping[str, Artifact], *, expected: bool
) -> dg.AssetCheckResult:
    shared = {k: DatasetCounts.of(r.counts).num_shared_documents for k, r in records.items()}
    twice = [f"{count:,} of {key}" for key, count in shared.items() if count]
    said = "No document is in two splits."
    if twice:
        said = f"Documents are in two splits: {', '.join(twice)}. Materialize domain_dataset again."
    check = dg.AssetCheckResult(
        passed=not twice or not expected,
        check_name="splits_are_disjoint",
        description=said
        if expected
        else "mixture.compatible_with_mdel repeats documents, as the original project did.",
        metadata={"documents_that_occur_twice": dg.MetadataValue.json(shared)},
    )
    return barring(check, [artifacts[key] for key in shared if expected and shared[key]])


def evaluation_is_uncontaminated(records: Mapping[str, Record]) -> dg.AssetCheckResult:
    """Warn if more than 0.1 % of a split's documents share 13 consecutive words with training."""
    rows: list[dict[str, Any]] = [
        {
            "domain": key,
            "split": split,
            "num_documents": found.num_documents,
            "num_contaminated_documents": found.num_contaminated_documents,
            "share": round(found.num_contaminated_documents / found.num_documents, 6),
            "num_shared_shingles": found.num_shared_shingles,
            "num_shingles": found.num_shingles,
        }
        for key, record in records.items()
        for split, found in DatasetCounts.of(record.counts).contamination.items()
        if found.num_documents
    ]
    found = [row for row in rows if row["share"] > _MAX_CONTAMINATED_SHARE]
    return dg.AssetCheckResult(
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        check_name="evaluation_is_uncontaminated",
        description=_contamination(found),
        metadata={"overlap": table(rows)},
    )


def _contamination(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence about the splits that share too much with training, the worst first."""
    if not found:
        return (
            f"In no split do more than {100 * _MAX_CONTAMINATED_SHARE:.1f} % of documents share 13 "
            f"consecutive words with the training split."
        )
    ordered = sorted(found, key=lambda row: -row["share"])
    named = [
        f"{row['num_contaminated_documents']:,} of {row['num_documents']:,} documents of "
        f"{row['domain']}/{row['split']} ({100 * row['share']:.0f} %)"
        for row in ordered[:_NUM_NAMED]
    ]
    more = f" and of {len(found) - _NUM_NAMED} more splits" if len(found) > _NUM_NAMED else ""
    return (
        f"Near duplicates: {', '.join(named)}{more} share 13 consecutive words with the training "
        f"split, so part of a model's gain there is memorization. Remove near duplicates from the "
        f"corpus, or judge by the domains that have few."
    )


def _tokenizer(experiment: Experiment, lineage: Lineage) -> Any:
    """Return the seed model's tokenizer, or None if it is not available yet."""
    from mdel_assets.training.model_files import load_tokenizer

    seed, named = lineage.artifact("seed_model"), experiment.seed_model
    try:
        if seed.record_path.exists():
            return load_tokenizer(seed.folder)
        if named.path is None:
            return None
        return load_tokenizer(experiment.place_of_model(named.path), revision=named.revision)
    except TrainingError:
        # The seed model's own asset reports what is wrong with it.
        return None
