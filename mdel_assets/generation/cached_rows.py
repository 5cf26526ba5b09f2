"""Keys and values of sequences that decode together: one row each, in one buffer per layer.

All rows end in the same column, so what a step adds is one column. A row that is shorter than the
longest begins later; the columns before it are masked, and hold zeros. Rows that are to run
together and lie in different buffers are copied into a new one first, which happens only where a
sequence joins or leaves.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# A buffer that is full grows by half, and by this many columns at least.
_MIN_HEADROOM = 64

# Shapes in names: B rows, H heads, C columns, D width of a head.


class CachedRows(Cache):
    """The cache of B rows under one model, in the form that transformers' models write to."""

    def __init__(self, *, num_rows: int, num_layers: int, num_columns: int = 0) -> None:
        self.num_rows = num_rows
        # Layers know this and not the cache: a circle would keep all memory until it is collected.
        self._filled = _Filled(num_columns)
        self.parts = [_LayerRows(self._filled) for _ in range(num_layers)]
        super().__init__(layers=[*self.parts])

    @property
    def num_columns(self) -> int:
        """How many columns are written."""
        return self._filled.num_columns

    def widen(self, num_columns: int) -> None:
        """Count columns that all layers have written."""
        self._filled.num_columns += num_columns


@dataclasses.dataclass
class _Filled:
    num_columns: int


@dataclasses.dataclass(eq=False)
class Row:
    """Where the keys and values of one sequence lie: the last ``length`` columns of a row.

    ``own_cache`` is what a family keeps instead whose sequences are continued one by one.
    """

    held: CachedRows | None = None
    index: int = 0
    length: int = 0
    own_cache: Any = None

    @property
    def num_bytes(self) -> int:
        """Bytes of its keys and values in all layers; what only that family counts is left out."""
        layers = range(len(self.held.parts)) if self.held else ()
        pairs = (_columns(self, layer) or () for layer in layers)
        return sum(part.nbytes for pair in pairs for part in pair)


def together(rows: Sequence[Row], *, num_layers: int) -> CachedRows:
    """Return one cache in which ``rows`` are all the rows there are, in this order."""
    first = rows[0].held
    if (
        first is not None
        and first.num_rows == len(rows)
        and all(row.held is first and row.index == index for index, row in enumerate(rows))
    ):
        return first
    num_columns = max(row.length for row in rows)
    new = CachedRows(num_rows=len(rows), num_layers=num_layers, num_columns=num_columns)
    for number, layer in enumerate(new.parts):
        layer.take([_columns(row, number) for row in rows])
    for index, row in enumerate(rows):
        row.held, row.index = new, index
    return new


def _columns(row: Row, layer: int) -> "tuple[torch.Tensor, torch.Tensor] | None":
    """Return the (H, C, D) keys and values of a row in one layer; None where it has none."""
    if row.held is None or row.length == 0:
        return None
    return row.held.parts[layer].of(row)


class _LayerRows(DynamicLayer):
    """One layer's keys and values; layers that other models run for this one have none."""

    def __init__(self, filled: _Filled) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._filled = filled
        self._buffers: tuple[torch.Tensor, ...] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns behind the last, and return all; `CachedRows` counts them later."""
        first, last = self._filled.num_columns, self._filled.num_columns + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < last:
            self._grow((key_states, value_states), last)
        assert self._buffers is not None
        keys, values = self._buffers
        keys[:, :, first:last] = key_states
        values[:, :, first:last] = value_states
        return keys[:, :, :last], values[:, :, :last]

    def get_seq_length(self) -> int:
        """Return how many columns there were before this pass."""
        return self._filled.num_columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns a mask is for, and the first one's number."""
        return self._filled.num_columns + query_length, 0

    def of(self, row: Row) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the (H, C, D) keys and values of ``row``; None where this layer has none."""
        if self._buffers is None:
            return None
        last = self._filled.num_columns
        keys, values = (buffer[row.index, :, last - row.length : last] for buffer in self._buffers)
        return keys, values

    def take(self, columns: "Sequence[tuple[torch.Tensor, torch.Tensor] | None]") -> None:
        """Put each row's columns where they end with all others."""
        like = next((pair for pair in columns if pair is not None), None)
        if like is None:
            return
        last = self._filled.num_columns
        self._buffers = tuple(
            _zeros(part[None].expand(len(columns), *part.shape), last) for part in like
        )
        for index, pair in enumerate(columns):
            for buffer, part in zip(self._buffers, pair or (), strict=False):
                buffer[index, :, last - part.shape[1] : last] = part

    def _grow(self, like: tuple[torch.Tensor, torch.Tensor], num_columns: int) -> None:
        before, held = self._buffers, self._filled.num_columns
        self._buffers = tuple(_zeros(part, num_columns) for part in like)
        for old, new in zip(before or (), self._buffers, strict=False):
            new[:, :, :held] = old[:, :, :held]


def _zeros(like_BHCD: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Return a buffer for ``num_columns`` and some more; masked columns must be finite numbers."""
    capacity = num_columns + max(_MIN_HEADROOM, num_columns // 2)
    shape = (*like_BHCD.shape[:2], capacity, like_BHCD.shape[3])
    return torch.zeros(shape, dtype=like_BHCD.dtype, device=like_BHCD.device)
