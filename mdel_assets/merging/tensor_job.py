"""The merge of one tensor: compare, copy or merge piece by piece, write."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.merge_methods.method import MergeMethod, Piece, TensorSettings
from mdel_assets.merging.sources import Source, largest_magnitude
from mdel_assets.store.tensor_files import is_float, torch_dtype
from mdel_assets.store.tensor_headers import dtype_bytes
from mdel_assets.store.tensor_writer import TensorLayout, TensorWriter

if TYPE_CHECKING:
    import torch

# How much of two tensors is compared before the rest is read.
_FIRST_LOOK_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class TensorJob:
    """A tensor of a merge: its settings, the models that it depends on, and its place.

    ``step`` is how many elements a piece has. ``is_known_equal`` says that all models and the base
    are known to hold the same bytes.
    """

    name: str
    layout: TensorLayout
    method: MergeMethod
    settings: TensorSettings
    models: tuple[Source, ...]
    base: Source | None
    step: int
    is_known_equal: bool

    @property
    def sources(self) -> tuple[Source, ...]:
        """All inputs that are read: the base, if any, then the models."""
        return (self.base, *self.models) if self.base else self.models

    @property
    def num_elements(self) -> int:
        """Elements of the tensor."""
        return self.sources[0].stored(self.name).num_elements

    def is_copied(self) -> bool:
        """Whether the tensor is copied: equal in all models, with a method that keeps it equal.

        Raises:
            MergeError: it is not made of floats, and differs.

        """
        has_floats = is_float(self.layout.dtype)
        if has_floats and not self.method.keeps_equal(self.settings):
            return False
        if self.is_known_equal or all(self._is_equal(other) for other in self.sources[1:]):
            return True
        if not has_floats:
            raise MergeError(
                f"{self.name} holds {self.layout.dtype}, which cannot be merged, and differs "
                f"between {', '.join(source.entry.name for source in self.sources)}."
            )
        return False

    def _is_equal(self, other: Source) -> bool:
        first = self.sources[0]
        if first.stored(self.name).dtype != other.stored(self.name).dtype:
            return False
        size = self.num_elements
        look = _FIRST_LOOK_BYTES // dtype_bytes(first.stored(self.name).dtype)
        return all(
            _same_bits(first.read_stored(self.name, *part), other.read_stored(self.name, *part))
            for part in [(0, min(look, size)), *_parts(0, size, self.step)]
        )

    def copy(self, writer: TensorWriter) -> None:
        """Write the tensor as the first source has it, in the output's dtype."""
        first = self.sources[0]
        for part in _parts(0, self.num_elements, self.step):
            if is_float(self.layout.dtype):
                self._write(writer, part[0], first.read(self.name, *part))
            else:
                self._write(writer, part[0], first.read_stored(self.name, *part))

    def merge(self, writer: TensorWriter, first: int, last: int) -> bool:
        """Merge elements ``first`` to ``last`` (exclusive); return whether all results are finite.

        Raises:
            MergeError: an input holds a NaN or infinity.

        """
        import torch

        measured = None
        if self.method.measure is not None:
            measured = self.method.measure(lambda: self.pieces(0, self.num_elements), self.settings)
        finite = True
        for piece in self.pieces(first, last):
            merged = self.method.merge(piece, self.settings, measured)
            largest = largest_magnitude(merged)
            if not math.isfinite(largest):
                # If the inputs are finite, the sum left the range of fp32.
                self._refuse_non_finite(piece.first, piece.first + merged.numel())
            stored = self._write(writer, piece.first, merged)
            if not largest <= torch.finfo(stored.dtype).max:
                finite &= bool(torch.isfinite(stored).all())
        return finite

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """Yield the models' elements ``first`` to ``last`` (exclusive), ``step`` at a time."""
        check = not self.method.spreads_non_finite
        for part in _parts(first, last, self.step):
            base = self.base.read(self.name, *part, check=check) if self.base else None
            yield Piece(base, _ReadOnDemand(self, *part, check=check), part[0])

    def _refuse_non_finite(self, first: int, last: int) -> None:
        for source in self.sources:
            source.read(self.name, first, last)

    def _write(self, writer: TensorWriter, first: int, numbers: "torch.Tensor") -> "torch.Tensor":
        """Write elements from ``first`` on in the output's dtype; return them so."""
        import torch

        stored = numbers.to(torch_dtype(self.layout.dtype))
        data: Any = stored.view(torch.uint8).numpy()
        offset = first * dtype_bytes(self.layout.dtype)
        writer.write(self.layout.name, memoryview(data), offset=offset)
        return stored


class _ReadOnDemand(Sequence[Any]):
    """The models' elements of one piece, each read on demand."""

    def __init__(self, job: TensorJob, first: int, last: int, *, check: bool) -> None:
        self._job, self._part, self._check = job, (first, last), check

    def __len__(self) -> int:
        return len(self._job.models)

    def __getitem__(self, index: Any) -> Any:
        source = self._job.models[index]
        return source.read(self._job.name, *self._part, check=self._check)


def _parts(first: int, last: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last, step):
        yield start, min(start + step, last)


def _same_bits(first: "torch.Tensor", second: "torch.Tensor") -> bool:
    import torch

    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))
