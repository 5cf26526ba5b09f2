"""The index of the whole Pile: 200 million documents, found copies, drawn general halves.

Ids and sizes are generated, one in a hundred a copy; 22 domains have the Pile's shares. Each step
runs in a process of its own. ``--compare`` holds everything in memory besides, sorts it, and fails
where that does not give the same: for some million documents.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.bench_line import measured
from benchmarks.figures import show
from benchmarks.pile_like import SHAPES
from mdel_assets.data.document_index import ROLES, DocumentFile, DocumentIndex, salted_hash
from mdel_assets.data.selection import Rows, select_documents
from mdel_assets.experiment.fields import Mixture

RUNS_ONLY_WHEN_NAMED = True
_NUM_SHARDS = 30
_ROWS_PER_GROUP = 1 << 17
_HOLDOUT = 0.01
_HEXADECIMAL = np.frombuffer(b"0123456789abcdef", np.uint8)


def main(arguments: Sequence[str] = ()) -> None:
    """Print what generated documents, and their index with all selections, take."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_index")
    parser.add_argument("--million-documents", type=float, default=200.0)
    parser.add_argument("--compare", action="store_true", help="with sorting all in memory")
    parser.add_argument("--only", choices=["generate", "index", "compare"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    if options.only:
        steps = {"generate": _generate, "index": _index, "compare": _compare}
        steps[options.only](options.folder, int(options.million_documents * 1e6))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for step in ("generate", "index", *(["compare"] if options.compare else [])):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_index"]
            command += ["--only", step, "--folder", str(folder)]
            command += ["--million-documents", str(options.million_documents)]
            spent = measured(command, None, log=folder / f"{step}.log")
            show(f"index/{step}/wall", spent.elapsed_seconds, "s")
            show(f"index/{step}/processor", spent.processor_seconds, "s")
            show(f"index/{step}/peak_memory", spent.peak_bytes / 2**20, "MiB")
            show(f"index/{step}/written", spent.written_bytes / 2**20, "MiB")
            for line in (folder / f"{step}.log").read_text("utf-8").splitlines():
                print(line)  # noqa: T201


def _files(folder: Path) -> list[DocumentFile]:
    return [
        DocumentFile(folder / f"{shard:02}-{domain}.parquet", domain, "train", shard)
        for shard in range(_NUM_SHARDS)
        for domain in SHAPES
    ]


def _generate(folder: Path, total: int) -> None:
    """Write documents files without text."""
    weights = {domain: share / length for domain, (share, length) in SHAPES.items()}
    draw = np.random.default_rng(0)
    before = np.zeros((0, 16), np.uint8)
    for file in _files(folder):
        count = round(total * weights[file.domain] / sum(weights.values()) / _NUM_SHARDS)
        with pq.ParquetWriter(file.path, _SCHEMA, compression="none", use_dictionary=False) as out:
            for first in range(0, count, _ROWS_PER_GROUP):
                size = min(_ROWS_PER_GROUP, count - first)
                ids = draw.integers(0, 256, (size, 16), np.uint8)
                if len(before):
                    copied = before[draw.integers(0, len(before), size // 100)]
                    ids[draw.integers(0, size, len(copied))] = copied
                before = ids
                digits = _HEXADECIMAL[np.stack([ids >> 4, ids & 15], axis=2)].tobytes()
                offsets = np.arange(0, 32 * size + 1, 32, dtype=np.int32)
                keys = pa.StringArray.from_buffers(
                    size, pa.py_buffer(offsets), pa.py_buffer(digits)
                )
                sizes = draw.integers(1, 10_000, size)
                lines = np.arange(first, first + size)
                out.write_table(pa.table([keys, sizes, lines], schema=_SCHEMA))


_SCHEMA = pa.schema(
    [("document_id", pa.string()), ("num_bytes", pa.int64()), ("line_number", pa.int64())]
)


def _open(folder: Path) -> DocumentIndex:
    return DocumentIndex(
        _files(folder), holdout_fraction=_HOLDOUT, shard_roles={"train"}, work_folder=folder
    )


def _index(folder: Path, total: int) -> None:
    """Open the index, and select every domain's documents."""
    started = time.monotonic()
    with _open(folder) as index:
        opened = time.monotonic()
        selections = select_documents(index, list(SHAPES), mixture=Mixture())
        selected = time.monotonic()
        survivors = int(index.survives.sum())
        general = sum(selections[domain][role].num_general for domain in SHAPES for role in ROLES)
    show("index/opened", opened - started, "s")
    show("index/selected", selected - opened, "s")
    show("index/documents", len(index.survives), "documents")
    show("index/survivors", survivors, "documents")
    show("index/general", general, "documents")


def _compare(folder: Path, total: int) -> None:
    """Find copies and general halves by sorting all documents; they are to be the index's."""
    names, domain = _in_memory(folder)
    ids = np.array([name.encode() for name in names], "S32")
    numbers = np.array([[int(n[:16], 16), int(n[16:], 16)] for n in names], np.uint64)
    share = salted_hash(numbers, salt="holdout") / 2.0**64
    role = np.select([share < _HOLDOUT, share < 2 * _HOLDOUT], [0, 1], 2)
    order = np.lexsort((np.arange(len(ids)), role, ids))
    survives = np.zeros(len(ids), np.bool_)
    survives[order[np.append(True, ids[order][1:] != ids[order][:-1])]] = True
    with _open(folder) as index:
        different = int((index.survives != survives).sum())
        show("compare/other_survivors", different, "documents")
        mixture = Mixture()
        selections = select_documents(index, list(SHAPES), mixture=mixture)
        for place, name in enumerate(SHAPES):
            for code, role_name in enumerate(ROLES):
                rest = np.flatnonzero((role == code) & survives & (domain != place))
                num_own = int(((role == code) & survives & (domain == place)).sum())
                salt = f"general:{mixture.seed}:{name}:{role_name}"
                ranks = salted_hash(numbers[rest], salt=salt)
                drawn = rest[np.lexsort((rest, ranks))[: round(mixture.general_ratio * num_own)]]
                rows = Rows(rest, numbers[rest], 0, rest)
                held = rest[selections[name][role_name].cutoff.holds(rows)]
                different += len(np.setxor1d(held, drawn))
    show("compare/different", different, "documents")
    if different:
        raise SystemExit(f"{different} documents differ from what sorting all of them gives")


def _in_memory(folder: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Return all documents' ids, and their domains' places among the Pile's."""
    names: list[str] = []
    domains = []
    for file in _files(folder):
        table = pq.read_table(file.path, columns=["document_id"])
        names += table.column("document_id").to_pylist()
        domains.append(np.full(len(table), list(SHAPES).index(file.domain)))
    return names, np.concatenate(domains)


if __name__ == "__main__":
    main(sys.argv[1:])
