"""What the record of `ensemble_report` says: written from this, and read into this."""

import dataclasses

from mdel_assets.store.records import Record


@dataclasses.dataclass(frozen=True)
class EnsembleRecord:
    """How many experts were weighed together, and in sentences what came of it."""

    num_experts: int
    findings: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> "EnsembleRecord":
        """Return what the record holds; early ones have no findings."""
        return cls(int(record.counts["num_experts"]), tuple(record.details.get("findings", ())))
