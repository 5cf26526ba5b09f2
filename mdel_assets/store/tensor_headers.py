"""Headers of safetensors files: the place of each tensor, with every entry validated.

Like the safetensors library, this refuses tensors that overlap, leave a gap or do not end at the
file's end.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mdel_assets.errors import MergeError

# safetensors' name of a dtype: its bytes, and torch's name.
DTYPES = {
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
# The library's own limit, and the largest number of elements that a tensor can have.
_MAX_HEADER_BYTES = 100_000_000
_MAX_ELEMENTS = 2**63 - 1
# Characters of what is shown of a header: a name may have millions.
_MAX_REASON = 300


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


def dtype_bytes(dtype: str) -> int:
    """Return the size in bytes of one element of ``dtype``, by safetensors' name."""
    return DTYPES[dtype][0]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return where a safetensors file's tensors lie, by name.

    Raises:
        MergeError: it is not a safetensors file, or not a whole one.

    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else file_size
        if 8 + length > file_size:
            _refuse(path, "its header is cut off")
        if length > _MAX_HEADER_BYTES:
            _refuse(path, f"its header has {length} bytes, at most {_MAX_HEADER_BYTES} are read")
        try:
            header = read_json(file.read(length))
        except ValueError as error:
            _refuse(path, f"its header is not JSON ({error})")
    if not isinstance(header, dict):
        _refuse(path, "its header is not a table of tensors")
    header.pop("__metadata__", None)
    found = {name: _tensor(path, name, entry) for name, entry in header.items()}
    end = 0
    for first, last, name in sorted((*header[name]["data_offsets"], name) for name in found):
        if first != end:
            _refuse(path, f"'{name}' begins at byte {first} of the data, expected {end}")
        end = last
    if 8 + length + end != file_size:
        _refuse(path, f"its tensors end at byte {8 + length + end}, the file at {file_size}")
    shift = 8 + length
    return {
        name: dataclasses.replace(tensor, start=shift + tensor.start)
        for name, tensor in found.items()
    }


def read_json(content: bytes) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: it is not JSON, names a key twice, or is nested too deeply to be read.

    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"it names '{twice}' twice")
    return found


def _tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    """Return where a tensor lies by its entry in the header, counted from the header's end."""
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        _refuse(path, f"'{name}' lacks its dtype, its shape or its two offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse(path, f"'{name}' has the unknown dtype {dtype}")
    if not (isinstance(shape, list) and all(map(_is_count, [*shape, first, last]))):
        _refuse(path, f"'{name}' has the shape {shape} and the offsets {first} and {last}")
    tensor = StoredTensor(path, first, tuple(shape), dtype)
    # A dimension of 0 hides how large the others are.
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS or tensor.size_bytes != last - first:
        _refuse(path, f"'{name}', {dtype} of shape {shape}, does not fit into {last - first} bytes")
    return tensor


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _refuse(path: Path, reason: str) -> NoReturn:
    shown = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."
    raise MergeError(f"{path} is not a whole safetensors file: {shown}. Fetch it or make it again.")
