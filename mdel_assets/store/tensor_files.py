"""Read safetensors of a model folder, tensor by tensor.

Files are read, not memory-mapped, so that memory holds only what the reader asked for, once.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mdel_assets.errors import MergeError
from mdel_assets.store.tensor_headers import (
    DTYPES,
    StoredTensor,
    dtype_bytes,
    read_header,
    read_json,
)

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


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
                raise MergeError(f"{tensor.path} ends inside the tensor '{name}'.")
            done += count


def bytes_of(tensor: "torch.Tensor") -> memoryview:
    """Return the bytes of a tensor on the processor, in the order of its elements."""
    import torch

    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder.

    Raises:
        MergeError: there are none (pickle checkpoints are never read), or one is missing or is
            outside the folder.

    """
    if not (folder / INDEX_NAME).is_file():
        if not (folder / WEIGHTS_NAME).is_file():
            pickled = any((folder / name).exists() for name in _PICKLES)
            hint = " Pickle checkpoints are not read: convert them first." if pickled else ""
            raise MergeError(f"{folder} holds no {WEIGHTS_NAME}.{hint}")
        names = [WEIGHTS_NAME]
    else:
        names = sorted(set(_read_index(folder).values()))
    for name in names:
        path = folder / name
        if Path(name).name != name or "\0" in name or not path.is_file():
            index = folder / INDEX_NAME
            raise MergeError(f"{index} names '{name}', which is not a file of this folder.")
        if not _lies_in(path, folder):
            raise MergeError(
                f"{path} links to {path.resolve()}, outside its folder. Put the file itself, or a "
                f"hard link to it, in the folder."
            )
    return [folder / name for name in names]


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a file lies in the folder itself, or where the Hub's cache has its files."""
    real, place = path.resolve().parent, folder.resolve()
    return real == place or (
        place.parent.name == "snapshots" and real == place.parent.with_name("blobs")
    )


def _read_index(folder: Path) -> dict[str, str]:
    """Return each tensor's file by the index of a model folder."""
    path = folder / INDEX_NAME
    try:
        content = read_json(path.read_bytes())
    except ValueError as error:
        raise MergeError(f"{path} is not JSON ({error}). Fetch it or make it again.") from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise MergeError(
            f"{path} has no 'weight_map' that names a file for each tensor. Fetch it or make it "
            f"again."
        )
    return found


def _weight_map(folder: Path, headers: dict[str, dict[str, StoredTensor]]) -> dict[str, str]:
    """Return each tensor's file; what a file holds besides is not the model's."""
    if (folder / INDEX_NAME).is_file():
        return _read_index(folder)
    return {name: file for file, tensors in headers.items() for name in tensors}


def torch_dtype(dtype: str) -> "torch.dtype":
    """Return torch's dtype for safetensors' name of it."""
    import torch

    return getattr(torch, DTYPES[dtype][1])  # type: ignore[no-any-return]


def stored_dtype(name: str) -> str:
    """Return safetensors' name of the dtype that torch calls ``name``, such as ``float16``."""
    return next(stored for stored, (_, known) in DTYPES.items() if known == name)


def is_float(dtype: str) -> bool:
    """Whether a dtype, by safetensors' name, holds numbers that can be averaged."""
    return dtype in {"F64", "F32", "F16", "BF16"}
