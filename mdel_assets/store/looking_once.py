"""Looking once: within a block, records and their files are looked at no more than once each."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from mdel_assets.store.records import Record


@dataclasses.dataclass(frozen=True)
class Seen:
    """By the record's path: records, and what is wrong with their files, as they were found."""

    records: dict[Path, Record | None] = dataclasses.field(default_factory=dict)
    damages: dict[Path, str | None] = dataclasses.field(default_factory=dict)
    # What each artifact is where there are several versions of it (`Lineage`).
    current: dict[Path, Record | None] = dataclasses.field(default_factory=dict)


_seen: ContextVar[Seen | None] = ContextVar("_seen", default=None)


@contextlib.contextmanager
def looking_once() -> Iterator[None]:
    """Look at every record and its files at most once in this block, in which nothing is made."""
    token = _seen.set(_seen.get() or Seen())
    try:
        yield
    finally:
        _seen.reset(token)


def seen_so_far() -> Seen | None:
    """Return what was seen in the block that this is called in; None outside of one."""
    return _seen.get()
