"""What a dataset's record counts: written from these, and read into these."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mdel_assets.experiment.fields import SPLITS

# Together they hold every document of the domain itself.
_OWN_SPLITS = ("train", "validation_domain", "test_domain")


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """Documents and UTF-8 bytes of one split, by half."""

    num_documents: int
    num_domain_documents: int
    num_general_documents: int
    num_general_wanted: int
    num_bytes: int
    num_domain_bytes: int


@dataclasses.dataclass(frozen=True)
class Contamination:
    """What one evaluation split shares with the training split."""

    num_documents: int
    num_contaminated_documents: int
    num_shingles: int
    num_shared_shingles: int


@dataclasses.dataclass(frozen=True)
class DatasetCounts:
    """All of a dataset's counts; ``num_shared_documents`` are in two splits."""

    splits: Mapping[str, SplitCount]
    contamination: Mapping[str, Contamination]
    num_shared_documents: int
    corpus_bytes: int

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> "DatasetCounts":
        """Return what the counts of a record hold."""
        return cls(
            splits={split: SplitCount(**counts[split]) for split in SPLITS},
            contamination={s: Contamination(**c) for s, c in counts["contamination"].items()},
            num_shared_documents=counts["num_shared_documents"],
            corpus_bytes=counts["corpus_bytes"],
        )

    def as_json(self) -> dict[str, Any]:
        """Return the counts of a record."""
        found = dataclasses.asdict(self)
        splits: dict[str, Any] = found.pop("splits")
        return splits | found

    @property
    def own(self) -> list[SplitCount]:
        """The splits whose domain halves are the whole domain."""
        return [self.splits[split] for split in _OWN_SPLITS]
