"""What a raw shard's record says: written from this, and read into this."""

import dataclasses
from typing import Any, Literal

from mdel_assets.store.records import Record


@dataclasses.dataclass(frozen=True)
class RawShard:
    """A fetched shard: its file's name, where it comes from, which split it is for, its size.

    ``source_signature`` changes when the source does; None where that would need the network.
    """

    file: str
    location: str
    role: Literal["train", "validation", "test"]
    source_signature: str | None
    size_bytes: int

    @classmethod
    def of(cls, record: Record) -> "RawShard":
        """Return what the record of a raw shard holds."""
        return cls(**record.details, size_bytes=record.counts["size_bytes"])

    def details(self) -> dict[str, Any]:
        """Return the details of a record."""
        found = dataclasses.asdict(self)
        del found["size_bytes"]
        return found
