"""Entries: what makes an artifact exist in a store, written once all of its files are there.

An entry holds the artifact's record, and how it was made. Its name holds the record's fingerprint,
and the names of files hold their digests: so nothing in a store is overwritten. Files may be kept
by their names. An entry may not: one that was removed and made again has the same name.

    files/xxh3-DIGEST                                        the bytes of a file, once
    experiments/EXPERIMENT/PLACE/FINGERPRINT.record.json     an entry
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mdel_assets.store.records import Record

FILES, EXPERIMENTS = "files", "experiments"
_RECORD_NAME = "record.json"
_NAME = re.compile(r"(?P<front>.*[/.])(?P<fingerprint>[0-9a-f]{32})\.record\.json")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A record in a store, with what ``making.json`` holds beside it."""

    record: Record
    making: Mapping[str, Any] | None

    @classmethod
    def parse(cls, content: bytes) -> "Entry":
        """Return the entry that an object holds.

        Raises:
            ValueError: it is no entry, or not the one that was written.

        """
        found = json.loads(content)
        if not isinstance(found, dict) or found.keys() != {"record", "making"}:
            raise ValueError("not an entry of a store")
        return cls(Record.parse(json.dumps(found["record"])), found["making"])

    def content(self) -> bytes:
        """Return the object's content."""
        both = {"record": dataclasses.asdict(self.record), "making": self.making}
        return (json.dumps(both, indent=2, sort_keys=True) + "\n").encode()


def file_name(digest: str) -> str:
    """Return the name of the object with the bytes of this xxh3-128 digest."""
    return f"{FILES}/xxh3-{digest}"


def entry_name(place: str, fingerprint: str) -> str:
    """Return the name of an entry; ``place`` is the record's path, from the experiment's name on.

    >>> entry_name("pico/models/seed/record.json", 32 * "0")
    'experiments/pico/models/seed/00000000000000000000000000000000.record.json'
    """
    path = PurePosixPath(place)
    front = path.name.removesuffix(_RECORD_NAME)
    return str(PurePosixPath(EXPERIMENTS) / path.with_name(f"{front}{fingerprint}.{_RECORD_NAME}"))


def parsed_name(name: str) -> tuple[str, str] | None:
    """Return place and fingerprint of an entry's name; None for any other object."""
    match = _NAME.fullmatch(name.removeprefix(f"{EXPERIMENTS}/"))
    return (match["front"] + _RECORD_NAME, match["fingerprint"]) if match else None
