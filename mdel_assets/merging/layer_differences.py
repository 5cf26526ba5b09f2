"""How far each expert moved from the seed, tensor by tensor, and whether experts moved alike.

All experts are streamed side by side, so one pass gives the cosines between all pairs:

* ``relative_l2``: length of the task vector (expert minus seed) over the seed tensor's length;
* ``l1``: sum of the task vector's absolute values;
* ``largest_change``: its largest absolute value;
* ``is_equal``: whether expert and seed hold the same bytes;
* ``cosine``: between two experts' task vectors, left out if one of them is zero.

Sums are in fp64. A tensor that differs although the expert's record calls it frozen is named.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mdel_assets.merge_methods.block_sums import inner_products, sums
from mdel_assets.merging.opening import open_sources
from mdel_assets.merging.process import set_up_for_streaming
from mdel_assets.merging.sources import MergeInput, Source, refuse_differences
from mdel_assets.store.tensor_names import Layers

if TYPE_CHECKING:
    import torch

DIFFERENCES_NAME, COSINES_NAME = "differences.parquet", "cosines.parquet"
_DIFFERENCES = pa.schema(
    [
        ("tensor", pa.string()),
        ("layer", pa.int32()),
        ("part", pa.string()),
        ("num_elements", pa.int64()),
        ("relative_l2", pa.float64()),
        ("l1", pa.float64()),
        ("largest_change", pa.float64()),
        ("is_equal", pa.bool_()),
        ("is_frozen", pa.bool_()),
    ]
)
_COSINES = pa.schema(
    [
        ("tensor", pa.string()),
        ("layer", pa.int32()),
        ("part", pa.string()),
        ("other", pa.string()),
        ("cosine", pa.float64()),
    ]
)
_MAX_THREADS = 8
_PIECE_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class ExpertDifferences:
    """What was written for one expert.

    ``relative_l2`` is over all tensors together; ``mean_cosines`` maps other experts to the cosine
    of the whole task vectors.
    """

    num_tensors: int
    num_changed_tensors: int
    relative_l2: float
    mean_cosines: dict[str, float]
    changed_though_frozen: list[str]


@dataclasses.dataclass(frozen=True)
class _Measured:
    """One tensor: sums over M experts' task vectors, and the square of the seed's length."""

    products_MM: NDArray[np.float64]
    seed_square: float
    l1_M: NDArray[np.float64]
    largest_M: list[float]
    is_equal_M: list[bool]


def measure_differences(
    experts: Sequence[MergeInput], folders: Mapping[str, Path], *, seed: MergeInput
) -> dict[str, ExpertDifferences]:
    """Write the tables of the experts in ``folders``, by name; ``experts`` are all to compare with.

    Raises:
        MergeError: a model differs from the seed in names, shapes or dtypes, or holds a NaN or
            infinity in a tensor that differs.

    """
    with (
        set_up_for_streaming(),
        open_sources([*experts, seed], model_folder=seed.folder) as sources,
    ):
        refuse_differences(sources, tokenizer_folder=seed.folder, dtypes_may_differ=False)
        own_names = sources[-1].own_names
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            found = dict(
                zip(own_names, pool.map(lambda n: _measure(n, sources), own_names), strict=True)
            )
        layers = Layers.of(own_names)
    return {
        name: _write(name, folder, found, experts, layers=layers, sources=sources)
        for name, folder in folders.items()
    }


def _measure(name: str, sources: Sequence[Source]) -> _Measured:
    """Go through one tensor of all experts and the seed, which comes last."""
    import torch

    *experts, seed = sources
    step = max(1024, _PIECE_BYTES // (4 * len(sources)) // 1024 * 1024)
    parts = [
        (first, min(first + step, seed.stored(name).num_elements))
        for first in range(0, seed.stored(name).num_elements, step)
    ]

    def is_equal(expert: Source) -> bool:
        pairs = ((expert.read_stored(name, *p), seed.read_stored(name, *p)) for p in parts)
        return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)

    equal = [is_equal(expert) for expert in experts]
    moved = [index for index, same in enumerate(equal) if not same]
    largest = [0.0] * len(experts)

    def task_vectors() -> "Iterator[list[torch.Tensor]]":
        for part in parts:
            base = seed.read(name, *part)
            yield [*(experts[index].read(name, *part).sub_(base) for index in moved), base]

    def magnitudes() -> "Iterator[list[torch.Tensor]]":
        for *deltas, _ in task_vectors():
            for index, delta in zip(moved, deltas, strict=True):
                largest[index] = max(largest[index], float(delta.abs_().max()))
            yield deltas

    own = [*moved, len(experts)]
    products, l1 = np.zeros((len(sources), len(sources))), np.zeros(len(experts))
    if parts:
        products[np.ix_(own, own)] = inner_products(task_vectors)
    if moved:
        l1[moved] = sums(magnitudes)
    return _Measured(products[:-1, :-1], float(products[-1, -1]), l1, largest, equal)


def _write(
    name: str,
    folder: Path,
    found: Mapping[str, _Measured],
    experts: Sequence[MergeInput],
    *,
    layers: Layers,
    sources: Sequence[Source],
) -> ExpertDifferences:
    names = [expert.name for expert in experts]
    index = names.index(name)
    rows: list[dict[str, Any]] = []
    cosines: list[dict[str, Any]] = []
    for tensor, measured in found.items():
        own = sources[-1].own_names[tensor]
        layer = layers.index_of(own)
        place = {"tensor": own, "layer": layer, "part": layers.part_of(own)}
        square = measured.products_MM[index, index]
        length = math.sqrt(measured.seed_square)
        rows.append(
            place
            | {
                "num_elements": sources[-1].stored(tensor).num_elements,
                "relative_l2": math.sqrt(square) / length if length else None,
                "l1": measured.l1_M[index],
                "largest_change": measured.largest_M[index],
                "is_equal": measured.is_equal_M[index],
                "is_frozen": sources[index].is_frozen(tensor),
            }
        )
        cosines += [
            place | {"other": other, "cosine": cosine}
            for number, other in enumerate(names)
            if number != index
            and (cosine := _cosine(measured.products_MM, index, number)) is not None
        ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_DIFFERENCES), folder / DIFFERENCES_NAME)
    pq.write_table(pa.Table.from_pylist(cosines, schema=_COSINES), folder / COSINES_NAME)
    return _summary(rows, found, names, index)


def _summary(
    rows: Sequence[Mapping[str, Any]],
    found: Mapping[str, _Measured],
    names: Sequence[str],
    index: int,
) -> ExpertDifferences:
    products = np.sum([measured.products_MM for measured in found.values()], axis=0)
    seed_square = sum(measured.seed_square for measured in found.values())
    return ExpertDifferences(
        num_tensors=len(rows),
        num_changed_tensors=sum(not row["is_equal"] for row in rows),
        relative_l2=math.sqrt(products[index, index] / seed_square) if seed_square else 0.0,
        mean_cosines={
            other: cosine
            for number, other in enumerate(names)
            if number != index and (cosine := _cosine(products, index, number)) is not None
        },
        changed_though_frozen=[
            row["tensor"] for row in rows if row["is_frozen"] and not row["is_equal"]
        ],
    )


def _cosine(products_MM: Any, first: int, second: int) -> float | None:
    """Return the cosine between two task vectors; None where one of them is zero."""
    lengths = math.sqrt(products_MM[first, first] * products_MM[second, second])
    return float(products_MM[first, second] / lengths) if lengths else None


def curves_by_part(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return (layer, relative L2 change) for each part of a layer that is a matrix, for a chart."""
    rows = pq.read_table(folder / DIFFERENCES_NAME).to_pylist()
    largest: dict[str, int] = {}
    for row in rows:
        if row["layer"] is not None:
            largest[row["part"]] = max(largest.get(row["part"], 0), row["num_elements"])
    shown = sorted(largest, key=lambda part: (-largest[part], part))[:6]
    return {
        part: sorted(
            (float(row["layer"]), row["relative_l2"])
            for row in rows
            if row["layer"] is not None and row["part"] == part and row["relative_l2"] is not None
        )
        for part in shown
    }
