"""Write safetensors with a layout that is fixed before the first byte.

Every tensor's place is known at the start, so threads can write in any order and the bytes are the
same. The folder is a staging folder, which `Artifact.publish` syncs and renames.
"""

import contextlib
import dataclasses
import json
import math
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from mdel_assets.errors import MergeError
from mdel_assets.store.tensor_files import INDEX_NAME, WEIGHTS_NAME
from mdel_assets.store.tensor_headers import dtype_bytes


@dataclasses.dataclass(frozen=True)
class TensorLayout:
    """A tensor to be written; ``dtype`` is safetensors' name, such as ``F16``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Its size on disk."""
        return math.prod(self.shape) * dtype_bytes(self.dtype)


class TensorWriter:
    """Writes tensors into one file, or into shards of at most ``max_shard_bytes`` with an index.

    One file is called ``weights_name``.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Sequence[TensorLayout],
        *,
        max_shard_bytes: int | None = None,
        weights_name: str = WEIGHTS_NAME,
    ) -> None:
        # The library's own order: wide elements first, so that each tensor lies aligned.
        ordered = sorted(tensors, key=lambda t: (-dtype_bytes(t.dtype), t.name))
        shards = _shards(ordered, max_shard_bytes)
        names = [
            weights_name
            if len(shards) == 1
            else f"model-{number:05}-of-{len(shards):05}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
        self._layouts = {tensor.name: tensor for tensor in ordered}
        self._missing = {tensor.name: tensor.size_bytes for tensor in ordered}
        self._places: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self.size_bytes = sum(
            self._open(folder / name, shard) for name, shard in zip(names, shards, strict=True)
        )
        if len(shards) > 1:
            _write_index(folder, dict(zip(names, shards, strict=True)))

    def _open(self, path: Path, tensors: Sequence[TensorLayout]) -> int:
        """Create a file with its header and its full size; return that size."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + tensor.size_bytes],
            }
            offset += tensor.size_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._stack.callback(os.close, descriptor)
        start = 8 + len(text)
        for tensor in tensors:
            first = header[tensor.name]["data_offsets"][0]
            self._places[tensor.name] = (descriptor, start + first)
        os.truncate(descriptor, start + offset)
        os.pwrite(descriptor, struct.pack("<Q", len(text)) + text, 0)
        return start + offset

    def write(self, name: str, data: memoryview, *, offset: int) -> None:
        """Write bytes of tensor ``name``, ``offset`` bytes after its first; safe from threads."""
        descriptor, start = self._places[name]
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], start + offset + done)
        with self._lock:
            self._missing[name] -= done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is not None:
                return
            if short := sorted(name for name, count in self._missing.items() if count):
                raise MergeError(f"These tensors are incomplete: {', '.join(short)}.")


def _shards(tensors: Sequence[TensorLayout], limit: int | None) -> list[list[TensorLayout]]:
    """Deal tensors out in order; a tensor larger than ``limit`` has a shard of its own."""
    shards: list[list[TensorLayout]] = [[]]
    size = 0
    for tensor in tensors:
        if limit is not None and shards[-1] and size + tensor.size_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size_bytes
    return shards


def _write_index(folder: Path, shards: dict[str, list[TensorLayout]]) -> None:
    total = sum(tensor.size_bytes for shard in shards.values() for tensor in shard)
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(content, indent=2, sort_keys=True)
    (folder / INDEX_NAME).write_text(text + "\n", "utf-8")
