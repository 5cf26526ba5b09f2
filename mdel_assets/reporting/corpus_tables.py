"""The corpus as the page shows it: documents and bytes by domain and split, rejects by shard."""

import dataclasses
from collections.abc import Sequence

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.data.raw_shard import RawShard
from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.evaluation.sample_sizes import bytes_in_words
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.line.kind import Input
from mdel_assets.line.lineage import Lineage
from mdel_assets.publishing.cards import public_place
from mdel_assets.publishing.licences import source_note
from mdel_assets.reporting.made_of import Records, of_kind


@dataclasses.dataclass(frozen=True)
class SplitSize:
    """How much text a split has, and the share of the largest domain's train split, in percent."""

    num_documents: int
    size: str
    percent: float


@dataclasses.dataclass(frozen=True)
class DomainRow:
    """A domain: key, name, source and terms, and its splits in the order of the table's columns.

    ``num_contaminated`` of ``num_held_out`` evaluation documents share text with training text.
    """

    key: str
    name: str
    source: str
    terms: str
    splits: Sequence[SplitSize]
    num_contaminated: int
    num_held_out: int


@dataclasses.dataclass(frozen=True)
class ShardRow:
    """A shard of the corpus, and what became of its records."""

    key: str
    role: str
    place: str
    size: str
    num_documents: int
    num_rejects: int
    left_out: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The tables; ``splits`` names the columns that have text, ``removed`` tells of duplicates."""

    splits: Sequence[str]
    domains: Sequence[DomainRow]
    shards: Sequence[ShardRow]
    removed: str
    absent: Sequence[str]


def corpus_of(lineage: Lineage, records: Records) -> Corpus:
    """Return the corpus as the records of shards and datasets tell it."""
    experiment, present = lineage.experiment, lineage.present_domains()
    datasets = of_kind(lineage, records, "domain_dataset")
    counts = {d: DatasetCounts.of(datasets[d].counts) for d in present if d in datasets}
    splits = [s for s in SPLITS if any(c.splits[s].num_documents for c in counts.values())]
    largest = max((c.splits["train"].num_bytes for c in counts.values()), default=0)
    rows = []
    for domain, own in counts.items():
        described = experiment.require_domain(domain)
        note = source_note(experiment, described)
        found = [own.splits[split] for split in splits]
        rows.append(
            DomainRow(
                domain,
                described.name,
                note.source,
                note.terms,
                [
                    SplitSize(
                        each.num_documents,
                        bytes_in_words(each.num_bytes),
                        round(100 * each.num_bytes / max(1, largest), 1),
                    )
                    for each in found
                ],
                sum(each.num_contaminated_documents for each in own.contamination.values()),
                sum(each.num_documents for each in own.contamination.values()),
            )
        )
    first = next(iter(datasets.values()), None)
    removed = first.details.get("removed_from_corpus", {}) if first else {}
    absent = [key for key in experiment.domain_keys if key not in present]
    told = _removed_in_words(removed)
    if experiment.mixture.compatible_with_mdel:
        told = "Duplicates were kept, as `mixture.compatible_with_mdel` asks."
    return Corpus(splits, rows, _shards(lineage, records), told, absent)


def _shards(lineage: Lineage, records: Records) -> list[ShardRow]:
    rows = []
    for shard in lineage.experiment.shards():
        raw = records.get(Input("raw_pile_shard", shard.key))
        routed = records.get(Input("shard_documents", shard.key))
        if raw is None or routed is None:
            continue
        counts = ShardCounts.of(routed.counts)
        reasons = {
            **counts.rejects,
            "filtered by licence": counts.num_filtered,
            "label of no domain, left out": counts.num_unclaimed,
            "without text": counts.num_without_text,
        }
        left_out = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items() if count)
        rows.append(
            ShardRow(
                shard.key,
                shard.role,
                public_place(shard.location),
                bytes_in_words(RawShard.of(raw).size_bytes),
                counts.num_documents,
                counts.num_rejects,
                left_out,
            )
        )
    return rows


def _removed_in_words(removed: dict[str, int]) -> str:
    told = {
        "num_duplicates": "duplicates within a split's shards",
        "num_train_also_in_evaluation": "training documents that are also held out",
        "num_validation_also_in_test": "validation documents that are also test documents",
    }
    parts = [f"{removed[name]:,} {words}" for name, words in told.items() if removed.get(name)]
    return f"Removed: {', '.join(parts)}." if parts else "No duplicates were found."
