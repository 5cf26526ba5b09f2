"""Compare a model with its last report, document by document.

A report keeps every document's sums. For documents that the next report scores again, the change of
bits per byte is paired, and its interval separates a real change from chance.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdel_assets.scoring.estimates import Estimate
from mdel_assets.scoring.perplexity import Cell, bootstrap_bits_per_byte, interval

SUMS_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("split", pa.string()),
        ("document_id", pa.string()),
        ("num_bytes", pa.int64()),
        ("nll_nats", pa.float64()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Change(Estimate):
    """The change of one cell's bits per byte, with its paired 95 % interval."""

    dataset: str
    split: str


def document_sums(cells: Sequence[Cell]) -> pa.Table:
    """Return every document's bytes and negative log-likelihood, by dataset and split."""
    tables = [
        pa.table(
            [
                pa.array([cell.dataset] * len(cell.document_ids), pa.string()),
                pa.array([cell.split] * len(cell.document_ids), pa.string()),
                pa.array(cell.document_ids, pa.string()),
                pa.array(cell.num_bytes_D),
                pa.array(cell.nll_nats_D),
            ],
            schema=SUMS_SCHEMA,
        )
        for cell in cells
    ]
    return pa.concat_tables([SUMS_SCHEMA.empty_table(), *tables])


def changes_since(
    before: pa.Table, cells: Sequence[Cell], *, num_samples: int, seed: int
) -> list[Change]:
    """Return the change of each cell since ``before``, a table of `document_sums`.

    Only documents in both count; a cell without a common document with text is left out.
    """
    found = []
    for cell in cells:
        is_cell = pc.and_(
            pc.equal(before.column("dataset"), cell.dataset),
            pc.equal(before.column("split"), cell.split),
        )
        own = before.filter(is_cell)
        old = dict(
            zip(
                zip(
                    own.column("document_id").to_pylist(),
                    own.column("num_bytes").to_pylist(),
                    strict=True,
                ),
                own.column("nll_nats").to_pylist(),
                strict=True,
            )
        )
        # The same document may have been scored to another length.
        keys = list(zip(cell.document_ids, cell.num_bytes_D.tolist(), strict=True))
        rows = [row for row, key in enumerate(keys) if key in old]
        sizes_D = cell.num_bytes_D[rows]
        if not sizes_D.sum():
            continue
        old_D = np.array([old[keys[row]] for row in rows])
        shared = cell.shared_ids
        draws = [
            bootstrap_bits_per_byte(
                nll_D,
                sizes_D,
                num_samples=num_samples,
                seed=seed,
                name=f"{cell.dataset}/{cell.split}",
                shared_ids=shared and [shared[row] for row in rows],
            )
            for nll_D in (cell.nll_nats_D[rows], old_D)
        ]
        moved = (cell.nll_nats_D[rows].sum() - old_D.sum()) / sizes_D.sum() / np.log(2)
        bounds = interval(draws[0] - draws[1])
        found.append(Change(float(moved), *bounds, len(rows), cell.dataset, cell.split))
    return found
