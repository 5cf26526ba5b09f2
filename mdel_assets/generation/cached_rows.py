"""Keys and values of sequences that decode together: one row each, in one buffer per layer.

All rows end in the same column, so what a step adds is one column. A row that is shorter than the
longest begins later; the columns before it are masked, and hold zeros. Rows that are to run
together and lie in different buffers are copied into a new one first, which happens only where a
sequence joins or leaves. They are copied layer by layer, and a buffer holds only rows that run
together, so what rows take at most follows from their lengths: see `columns_at_most`.
"""

import collections
import dataclasses
import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# A buffer that is full grows by an eighth, and by this many columns at least.
_MIN_HEADROOM = 64
# A row is padded by half of its length at most, or by this many columns if that is more: so much
# padding of some short rows costs less than a pass of their own, which reads all weights.
_MIN_PADDING = 256

# Shapes in names: B rows, H heads, C columns, D width of a head.


class CachedRows(Cache):
    """The cache of B rows under one model, in the form that transformers' models write to."""

    def __init__(self, *, num_rows: int, num_layers: int, num_columns: int = 0) -> None:
        self.num_rows = num_rows
        # Layers know this and not the cache: a circle would keep all memory until it is collected.
        self._filled = _Filled(num_columns)
        # Rows know this, too; those that are forgotten vanish from here.
        self.rows: weakref.WeakSet[Row] = weakref.WeakSet()
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

    def part(self) -> None:
        """Leave those that it ran with: what they need is not to be kept for this one."""
        if self.held and self.held.num_rows > 1:
            together([self], num_layers=len(self.held.parts))

    def bytes_by_layer(self) -> list[int]:
        """Return the bytes that each layer keeps of it, its row's unused columns left out."""
        if self.own_cache is not None:
            return [_bytes_of(vars(layer)) for layer in self.own_cache.layers]
        parts = self.held.parts if self.held else ()
        return [_bytes_of(part.of(self.index, self.length)) for part in parts]


def longest_beside(length: int) -> int:
    """Return how long a row may be that lies in one buffer with a row of ``length``."""
    return length + max(_MIN_PADDING, length // 2)


def columns_at_most(lengths: Sequence[int]) -> int:
    """Return how many columns rows have in all, at most, until they are as long as ``lengths``.

    That is, where only rows run together that `longest_beside` lets lie in one buffer.
    """
    longest = max(lengths, default=0)
    return sum(_with_headroom(min(longest, longest_beside(length))) for length in lengths)


def together(rows: Sequence[Row], *, num_layers: int) -> CachedRows:
    """Return one cache in which ``rows`` are all the rows there are, in this order.

    Others that lay in a buffer with some of them get one of their own each.
    """
    if held := _shared(rows):
        return held
    others = {other for row in rows if row.held for other in row.held.rows}.difference(rows)
    groups = [rows, *([other] for other in others)]
    columns = {row: _columns_by_layer(row) for group in groups for row in group}
    new = [_placed(group, num_layers=num_layers) for group in groups]
    for number in range(num_layers):
        for cache, group in zip(new, groups, strict=True):
            cache.parts[number].take([next(columns[row]) for row in group])
    return new[0]


def _shared(rows: Sequence[Row]) -> CachedRows | None:
    """Return the cache in which rows are all the rows already, in this order; None is none."""
    held = rows[0].held
    is_shared = (
        held is not None
        and held.num_rows == len(rows)
        and all(row.held is held and row.index == index for index, row in enumerate(rows))
    )
    return held if is_shared else None


def _placed(rows: Sequence[Row], *, num_layers: int) -> CachedRows:
    """Return a cache of ``rows``, into which their keys and values are still to be copied."""
    num_columns = max(row.length for row in rows)
    cache = CachedRows(num_rows=len(rows), num_layers=num_layers, num_columns=num_columns)
    for index, row in enumerate(rows):
        row.held, row.index = cache, index
        cache.rows.add(row)
    return cache


def _columns_by_layer(row: Row) -> "Iterator[tuple[torch.Tensor, torch.Tensor] | None]":
    """Return an iterator over a row's (H, C, D) keys and values where it lies now; None is none.

    It forgets each layer as it comes to it: those that no row needs any more are freed.
    """
    if row.held is None or row.length == 0:
        return itertools.repeat(None)
    parts, index, length = collections.deque(row.held.parts), row.index, row.length
    return (parts.popleft().of(index, length) for _ in range(len(parts)))


def _bytes_of(kept: Any) -> int:
    """Return the bytes of a tensor, or of all tensors that something has."""
    if isinstance(kept, torch.Tensor):
        return kept.nbytes
    if isinstance(kept, dict):
        kept = tuple(kept.values())
    return sum(map(_bytes_of, kept)) if isinstance(kept, tuple) else 0


def _with_headroom(num_columns: int) -> int:
    return num_columns + max(_MIN_HEADROOM, num_columns // 8)


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

    def of(self, index: int, length: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the (H, C, D) keys and values of a row; None where this layer has none."""
        if self._buffers is None:
            return None
        last = self._filled.num_columns
        keys, values = (buffer[index, :, last - length : last] for buffer in self._buffers)
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
    shape = (*like_BHCD.shape[:2], _with_headroom(num_columns), like_BHCD.shape[3])
    return torch.zeros(shape, dtype=like_BHCD.dtype, device=like_BHCD.device)
