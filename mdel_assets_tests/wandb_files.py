"""Reads W&B's offline files, which the library writes but no longer reads in Python.

A ``.wandb`` file is a 7-byte header and a LevelDB log: blocks of 32 KiB, in them records of a
checksum (4 bytes), length (2), type (1: whole, 2: first part, 3: middle, 4: last) and content.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 1 << 15, 7
_WHOLE, _LAST = 1, 4


def read_records(folder: Path, *, name: str = "offline-run-*") -> list[Any]:
    """Return the protocol's records of the one offline run in ``folder`` that ``name`` matches.

    A run that was killed may end in the middle of a record, which is left out.
    """
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob(f"wandb/{name}/*.wandb")
    return [wandb_internal_pb2.Record.FromString(content) for content in _contents(path)]


def history(records: list[Any]) -> list[dict[str, Any]]:
    """Return what was logged, one entry per call."""
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.HasField("history")
    ]


def _contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    place, parts = _HEADER, []
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        length = int.from_bytes(data[place + 4 : place + 6], "little")
        kind = data[place + 6]
        parts.append(data[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
