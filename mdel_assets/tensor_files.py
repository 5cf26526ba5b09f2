"""Safetensors on disk: reading a model folder tensor by tensor, writing one file in a stream."""

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mdel_assets.errors import MergeError

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_DTYPE_BYTES |= {"U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


class TensorFolder:
    """The tensors of a model folder, in one safetensors file or in several with an index.

    ``shapes`` and ``dtypes`` (safetensors' names, such as ``F16``) map every tensor's name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for path in weight_files(folder):
            for name, entry in read_header(path).items():
                if name in self.shapes:
                    raise MergeError(f"{folder}: the tensor '{name}' is stored twice.")
                self.shapes[name] = tuple(entry["shape"])
                self.dtypes[name] = entry["dtype"]
                self._files[name] = path
        self._open: dict[Path, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> "torch.Tensor":
        """Return a whole tensor."""
        return self._handle(name).get_tensor(name)  # type: ignore[no-any-return]

    def read_rows(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Return rows ``first`` to ``last`` (exclusive) along the first axis."""
        return self._handle(name).get_slice(name)[first:last]  # type: ignore[no-any-return]

    def _handle(self, name: str) -> Any:
        from safetensors import safe_open

        path = self._files[name]
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt"))
        return self._open[path]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder.

    Raises:
        MergeError: there are none (pickle checkpoints are never read), or the index names a file
            that is missing or lies outside the folder.

    """
    index = folder / INDEX_NAME
    if not index.is_file():
        if not (folder / WEIGHTS_NAME).is_file():
            pickled = any((folder / name).exists() for name in _PICKLES)
            hint = " Pickle checkpoints are not read: convert them first." if pickled else ""
            raise MergeError(f"{folder} holds no {WEIGHTS_NAME}.{hint}")
        return [folder / WEIGHTS_NAME]
    names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    for name in names:
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise MergeError(f"{index} names '{name}', which is not a file of this folder.")
    return [folder / name for name in names]


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return a safetensors file's header by tensor name, without its metadata."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


class TensorWriter:
    """Writes one safetensors file whose layout is fixed before the first byte."""

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
    ) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, shape in shapes.items():
            size = _DTYPE_BYTES[dtypes[name]]
            for length in shape:
                size *= length
            header[name] = {
                "dtype": dtypes[name],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        self._starts = {name: first + header[name]["data_offsets"][0] for name in shapes}
        self._written: dict[str, int] = dict.fromkeys(self._starts, 0)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.pwrite(self._descriptor, struct.pack("<Q", len(text)) + text, 0)
        self.size_bytes = 8 + len(text) + offset

    def append(self, name: str, tensor: "torch.Tensor") -> None:
        """Write the next rows of tensor ``name``."""
        import torch

        flat: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        data = memoryview(flat)
        while len(data):
            start = self._starts[name] + self._written[name]
            done = os.pwrite(self._descriptor, data, start)
            self._written[name] += done
            data = data[done:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seen = os.fstat(self._descriptor).st_size
        os.close(self._descriptor)
        if kind is None and seen != self.size_bytes:
            raise MergeError(f"{seen} bytes were written where {self.size_bytes} were promised.")
