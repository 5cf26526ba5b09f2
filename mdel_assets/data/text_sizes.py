"""How much text an experiment has: counted where it was read, else judged by its sources' sizes.

Every dataset's documents and bytes, split by split, come from the first of these that there is: the
datasets' records; the records of routed shards; the sizes of the sources' files. Records count as
long as a run would leave what they are of as it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from mdel_assets.data.dataset_counts import DatasetCounts
from mdel_assets.data.raw_shard import RawShard
from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.data.source_sizes import source_bytes
from mdel_assets.errors import MdelError
from mdel_assets.experiment.experiment import Shard
from mdel_assets.experiment.fields import SPLITS
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.presence import DATASET, has_training_text
from mdel_assets.store.looking_once import looking_once
from mdel_assets.store.records import Record

_COMPRESSED = (".zst", ".gz", ".bz2", ".xz", ".parquet")
# Text in a byte of a file: zstd and gzip make about a third of English; of plain JSON lines nine
# tenths are text.
_TEXT_IN_COMPRESSED, _TEXT_IN_PLAIN = 2.4, 0.9
# A document of the Pile has 6 kB (211 million of 1,254 GiB).
_BYTES_PER_DOCUMENT = 6000.0
# What Parquet with zstd makes of a byte of text.
_PACKED_TEXT = 0.38
# The record of an artifact, by kind and key, that a run would leave as it is; None of any other.
CurrentRecord = Callable[[str, str], Record | None]


@dataclasses.dataclass(frozen=True)
class Amount:
    """Documents, UTF-8 bytes of their text, and the size of Parquet files that hold them."""

    num_documents: float = 0.0
    num_bytes: float = 0.0
    packed_bytes: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.num_documents + other.num_documents,
            self.num_bytes + other.num_bytes,
            self.packed_bytes + other.packed_bytes,
        )

    def times(self, factor: float) -> "Amount":
        """Return ``factor`` times as much."""
        return Amount(
            self.num_documents * factor, self.num_bytes * factor, self.packed_bytes * factor
        )


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """The text of an experiment.

    ``shards`` has the size of each shard's file in bytes (None where unknown), ``documents`` what
    is routed of each. ``datasets`` maps present domains to their splits; a split's own domain's
    part alone is in ``own``. ``known_by`` says where the figures come from. ``are_datasets_there``:
    from datasets that a run would leave as they are.
    """

    shards: Mapping[str, float | None]
    documents: Mapping[str, Mapping[str, Amount]]
    datasets: Mapping[str, Mapping[str, Amount]]
    own: Mapping[str, Mapping[str, Amount]]
    known_by: str
    are_datasets_there: bool


@looking_once()
def text_sizes(lineage: Lineage, current: CurrentRecord) -> TextSizes:
    """Return how much text the experiment of ``lineage`` has, as far as that can be known."""
    shards = lineage.experiment.shards()
    sizes = {shard.key: _shard_bytes(current, shard) for shard in shards}
    documents, num_counted = _documents(lineage, current, shards, sizes)
    # Datasets are of the shards as they were read.
    are_read = num_counted == len(shards)
    by_datasets = _by_datasets(lineage, current) if are_read else None
    if by_datasets:
        found = by_datasets
        known_by = "the datasets' records"
    else:
        found = _by_documents(lineage, shards, documents)
        known_by = "the records of routed shards"
        if num_counted < len(shards):
            known_by = (
                f"the sizes of the sources, with {_TEXT_IN_COMPRESSED:g} bytes of text in a byte "
                f"of a compressed file, and the first records of a source that is there"
            )
    datasets, own = found
    return TextSizes(sizes, documents, datasets, own, known_by, by_datasets is not None)


def _shard_bytes(current: CurrentRecord, shard: Shard) -> float | None:
    record = current("raw_pile_shard", shard.key)
    if record is not None:
        return float(RawShard.of(record).size_bytes)
    return source_bytes(shard.location)


def _documents(
    lineage: Lineage,
    current: CurrentRecord,
    shards: list[Shard],
    sizes: Mapping[str, float | None],
) -> tuple[dict[str, dict[str, Amount]], int]:
    """Return each shard's documents by domain, and of how many shards they were counted."""
    counted: dict[str, dict[str, Amount]] = {}
    for shard in shards:
        # Documents are up to date also where their shard is to be fetched anew.
        is_fetched = current("raw_pile_shard", shard.key) is not None
        record = current("shard_documents", shard.key) if is_fetched else None
        if record is not None:
            found = ShardCounts.of(record.counts).domains
            counted[shard.key] = {
                key: Amount(
                    count.num_documents, count.num_bytes, _file_bytes(record, f"{key}.parquet")
                )
                for key, count in found.items()
            }
    per_byte = _per_byte(lineage, counted, sizes)
    rest = {}
    for shard in shards:
        if shard.key not in counted:
            size = (sizes[shard.key] or 0.0) * (1.0 if counted else _text_in_a_byte(shard.location))
            rest[shard.key] = {key: amount.times(size) for key, amount in per_byte.items()}
    return {shard.key: (counted | rest)[shard.key] for shard in shards}, len(counted)


def _per_byte(
    lineage: Lineage,
    counted: Mapping[str, Mapping[str, Amount]],
    sizes: Mapping[str, float | None],
) -> dict[str, Amount]:
    """Return the documents by domain for each byte: of a shard's file like those that were counted.

    Without any, it is for each byte of text, like a source's first records. Where no source is
    here to be read, every domain has the same share of it.
    """
    total = sum(sizes[key] or 0.0 for key in counted)
    if not total:
        return _first_records(lineage) or _equal_shares(lineage)
    found: dict[str, Amount] = {}
    for amounts in counted.values():
        for key, amount in amounts.items():
            found[key] = found.get(key, Amount()) + amount
    return {key: amount.times(1.0 / total) for key, amount in found.items()}


def _equal_shares(lineage: Lineage) -> dict[str, Amount]:
    domains = lineage.experiment.domain_keys
    share = 1.0 / len(domains)
    each = Amount(share / _BYTES_PER_DOCUMENT, share, _PACKED_TEXT * share)
    return dict.fromkeys(domains, each)


def _first_records(lineage: Lineage) -> dict[str, Amount]:
    """Return the documents by domain for each byte of text, of the first source that is here."""
    from mdel_assets.data.first_records import count_first_records

    experiment = lineage.experiment
    for shard in experiment.shards():
        path = Path(shard.location).expanduser()
        if "://" in shard.location or not path.exists() or experiment.clusters:
            continue
        domains = experiment.domain_table
        try:
            counts = count_first_records(path, domains=domains, source=experiment.source)
        except (MdelError, OSError):
            continue
        total = sum(c.num_bytes for c in counts.domains.values()) if counts else 0
        if counts and total:
            return {
                key: Amount(c.num_documents, c.num_bytes, _PACKED_TEXT * c.num_bytes).times(
                    1 / total
                )
                for key, c in counts.domains.items()
            }
    return {}


def _text_in_a_byte(location: str) -> float:
    is_packed = location.endswith(_COMPRESSED)
    return _TEXT_IN_COMPRESSED if is_packed else _TEXT_IN_PLAIN


def _file_bytes(record: Record, name: str) -> float:
    file = record.files.get(name)
    return float(file["size_bytes"]) if file else 0.0


_Splits = dict[str, dict[str, Amount]]


def _by_datasets(lineage: Lineage, current: CurrentRecord) -> tuple[_Splits, _Splits] | None:
    """Return what datasets hold; None unless all are up to date that the corpus has text for."""
    datasets: _Splits = {}
    own: _Splits = {}
    for domain in lineage.keys(DATASET):
        record = current(DATASET, domain)
        if record is None:
            return None
        if not has_training_text(record):
            continue
        splits = DatasetCounts.of(record.counts).splits
        datasets[domain] = {
            name: Amount(
                split.num_documents, split.num_bytes, _file_bytes(record, f"{name}.parquet")
            )
            for name, split in splits.items()
        }
        own[domain] = {
            n: Amount(s.num_domain_documents, s.num_domain_bytes) for n, s in splits.items()
        }
    return datasets, own


def _by_documents(
    lineage: Lineage, shards: list[Shard], documents: Mapping[str, Mapping[str, Amount]]
) -> tuple[_Splits, _Splits]:
    experiment = lineage.experiment
    role_of = {shard.key: shard.role for shard in shards}
    held_out = experiment.source.holdout_fraction
    found: dict[str, dict[str, Amount]] = {}
    for shard, amounts in documents.items():
        for domain, amount in amounts.items():
            roles = found.setdefault(
                domain, dict.fromkeys(("train", "validation", "test"), Amount())
            )
            roles[role_of[shard]] += amount
    for roles in found.values():
        for role in {"validation", "test"} - set(role_of.values()):
            roles[role] = roles["train"].times(held_out)
            roles["train"] = roles["train"].times(1.0 - held_out)
    datasets: _Splits = {}
    own: _Splits = {}
    for domain in experiment.domain_keys:
        if domain not in found:
            continue
        own[domain] = {}
        datasets[domain] = {}
        for split in SPLITS:
            role = split.split("_")[0]
            general = _general(found, domain, role, experiment.mixture.general_ratio)
            is_own = not split.endswith("_pile")
            mine = found[domain][role] if is_own else Amount()
            takes_general = split == "train" or not is_own
            own[domain][split] = mine
            datasets[domain][split] = mine + (general if takes_general else Amount())
    return datasets, own


def _general(
    found: Mapping[str, Mapping[str, Amount]], domain: str, role: str, ratio: float
) -> Amount:
    """Return ``ratio`` times as many documents of other domains, as far as there are so many."""
    others = sum((roles[role] for key, roles in found.items() if key != domain), Amount())
    if not others.num_documents:
        return Amount()
    wanted = ratio * found[domain][role].num_documents
    return others.times(min(1.0, wanted / others.num_documents))
