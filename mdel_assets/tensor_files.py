"""Safetensors on disk: reading a model folder tensor by tensor.

Plain reads, not mapped pages: what is read counts once as the reader's memory, and no more than
the reader asked for.
"""

import contextlib
import dataclasses
import json
import math
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mdel_assets.errors import MergeError

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# safetensors' name of a dtype: its bytes, and torch's name.
_DTYPES = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U64": (8, "uint64"),
    "U32": (4, "uint32"),
    "U16": (2, "uint16"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: its file, and its first byte there."""

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        """The product of its shape."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Its size on disk."""
        return self.num_elements * dtype_bytes(self.dtype)


class TensorFolder:
    """The tensors of a model folder, in one safetensors file or in several with an index.

    ``shapes`` and ``dtypes`` (safetensors' names, such as ``F16``) map every tensor's name. Reading
    is safe from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored: dict[str, StoredTensor] = {}
        self._descriptors: dict[Path, int] = {}
        self._stack = contextlib.ExitStack()
        headers = {path.name: read_header(path) for path in weight_files(folder)}
        for name, file in _weight_map(folder, headers).items():
            if name not in headers[file]:
                raise MergeError(f"{folder / file} lacks '{name}', which the index says it holds.")
            self.stored[name] = headers[file][name]
        self.shapes = {name: tensor.shape for name, tensor in self.stored.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self.stored.items()}

    def __enter__(self) -> Self:
        for path in {tensor.path for tensor in self.stored.values()}:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
            self._stack.callback(os.close, self._descriptors[path])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> "torch.Tensor":
        """Return a whole tensor."""
        shape = self.shapes[name]
        return self.read_flat(name, 0, math.prod(shape)).reshape(shape)

    def read_flat(self, name: str, first: int, last: int) -> "torch.Tensor":
        """Return elements ``first`` to ``last`` (exclusive), in the order they are stored."""
        import torch

        dtype = self.dtypes[name]
        size = dtype_bytes(dtype)
        flat = torch.empty((last - first) * size, dtype=torch.uint8)
        buffer: Any = flat.numpy()
        self.read_into(name, memoryview(buffer), offset=first * size)
        return flat.view(torch_dtype(dtype))

    def has_same(self, name: str, other: "TensorFolder") -> bool:
        """Whether ``other`` holds the tensor called ``name`` too, equal to the bit."""
        import torch

        if name not in self.stored or name not in other.stored:
            return False
        ours, theirs = self.stored[name], other.stored[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            return False
        # Files that are links to one another are not read.
        if ours.start == theirs.start and ours.path.samefile(theirs.path):
            return True
        pair = (files.read(name).reshape(-1).view(torch.uint8) for files in (self, other))
        return torch.equal(*pair)

    def read_into(self, name: str, buffer: memoryview, *, offset: int) -> None:
        """Fill ``buffer`` with the tensor's bytes from ``offset`` on.

        Raises:
            MergeError: the file ends before.

        """
        tensor = self.stored[name]
        done = 0
        while done < len(buffer):
            place = tensor.start + offset + done
            count = os.preadv(self._descriptors[tensor.path], [buffer[done:]], place)
            if count == 0:
                raise MergeError(f"{tensor.path} ends inside of the tensor '{name}'.")
            done += count


def bytes_of(tensor: "torch.Tensor") -> memoryview:
    """Return the bytes of a tensor on the processor, in the order of its elements."""
    import torch

    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


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


def _weight_map(folder: Path, headers: dict[str, dict[str, StoredTensor]]) -> dict[str, str]:
    """Return each tensor's file; what a file holds besides is not the model's."""
    index = folder / INDEX_NAME
    if index.is_file():
        found: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        return found
    return {name: file for file, tensors in headers.items() for name in tensors}


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return where a safetensors file's tensors lie, by name.

    Raises:
        MergeError: it is no safetensors file, or not a whole one.

    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else file_size
        if 8 + length > file_size:
            raise _broken(path, "its header is cut off")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise _broken(path, "its header is not JSON") from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensor = StoredTensor(path, 8 + length + first, tuple(entry["shape"]), entry["dtype"])
        if tensor.dtype not in _DTYPES:
            raise _broken(path, f"'{name}' has the unknown dtype {tensor.dtype}")
        if tensor.size_bytes != last - first or 8 + length + last > file_size:
            raise _broken(path, f"'{name}' does not fit into it")
        found[name] = tensor
    return found


def _broken(path: Path, reason: str) -> MergeError:
    return MergeError(
        f"{path} is not a whole safetensors file: {reason}. Fetch it or make it again."
    )


def dtype_bytes(dtype: str) -> int:
    """Return the size in bytes of one element of ``dtype``, by safetensors' name."""
    return _DTYPES[dtype][0]


def torch_dtype(dtype: str) -> "torch.dtype":
    """Return torch's dtype for safetensors' name of it."""
    import torch

    return getattr(torch, _DTYPES[dtype][1])  # type: ignore[no-any-return]


def stored_dtype(name: str) -> str:
    """Return safetensors' name of the dtype that torch calls ``name``, such as ``float16``."""
    return next(stored for stored, (_, known) in _DTYPES.items() if known == name)


def is_float(dtype: str) -> bool:
    """Whether a dtype, by safetensors' name, holds numbers that can be averaged."""
    return dtype in {"F64", "F32", "F16", "BF16"}
