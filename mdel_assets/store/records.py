"""Records: what an artifact is, as its ``record.json`` says, and the fingerprint of that."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mdel_assets.store.digests import text_digest


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an artifact is: its config and its inputs' fingerprints. How it is made is not in it."""

    kind: str
    key: str
    experiment: str
    code_version: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with anything the identity holds."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of ``record.json``.

    ``files`` maps a file's relative path to its size in bytes and xxh3-128 digest. ``counts`` are
    numbers worth comparing, ``details`` anything else a reader wants. ``seal`` is the digest of all
    else in the record; one that was written before there were seals has none.
    """

    kind: str
    key: str
    experiment: str
    fingerprint: str
    code_version: str
    config: dict[str, Any]
    inputs: dict[str, str]
    counts: dict[str, Any]
    details: dict[str, Any]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]
    seal: str = ""

    @classmethod
    def parse(cls, text: str) -> "Record":
        """Return the record that the text of a ``record.json`` holds.

        Raises:
            ValueError: it is no record, or not the one that was written.

        """
        content = json.loads(text)
        try:
            record = cls(**content)
        except TypeError as error:
            raise ValueError(f"not a record's fields: {error}") from error
        if record.seal not in ("", _seal(content)):
            raise ValueError(f"its seal is {record.seal}, of its content {_seal(content)}")
        return record

    def sealed(self) -> "Record":
        """Return the same record with its seal."""
        return dataclasses.replace(self, seal=_seal(dataclasses.asdict(self)))

    def text(self) -> str:
        """Return the text of its ``record.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"


def merged_details(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``first`` with what ``second`` has besides, inside of entries that both have, too."""
    both = {
        key: merged_details(first[key], value)
        for key, value in second.items()
        if isinstance(first.get(key), Mapping) and isinstance(value, Mapping)
    }
    return {**first, **second, **both}


def shown_counts(counts: Mapping[str, Any]) -> str:
    """Return the plain numbers among ``counts`` for one line of the log."""
    numbers = {name: value for name, value in counts.items() if type(value) is int}
    return "".join(f", {name} {value:,}" for name, value in numbers.items())


def _seal(content: Mapping[str, Any]) -> str:
    """Return the digest of a record's content, as it is after it was written and read."""
    as_read = json.loads(json.dumps({**content, "seal": ""}))
    return text_digest(json.dumps(as_read, sort_keys=True))
