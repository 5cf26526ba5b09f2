"""The files that a task's dataset lies in, and how many records they have."""

import csv
import json
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mdel_assets.errors import TaskError

_TABLES = frozenset({".parquet", ".arrow"})
_SUFFIXES = _TABLES | {".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
# The words by which `datasets` knows a split in the names of a folder's files.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# As far as `datasets` reads a CSV's field; the csv module stops at 128 KiB.
_MAX_FIELD_BYTES = 2**31 - 1


def files_named_for(folder: Path, split: str) -> list[Path]:
    """Return the files with records in ``folder`` whose paths inside of it name the split."""
    words = "|".join(map(re.escape, _WORDS.get(split, (split,))))
    named = re.compile(rf"(?:^|[/\-._ 0-9])(?:{words})(?:[/\-._ 0-9]|$)")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES
        and named.search(path.relative_to(folder).with_suffix("").as_posix())
        and path.is_file()
    )


def files_in_cache(cache: Path, dataset: str, config: str | None, *, split: str) -> list[Path]:
    """Return the files that `datasets` made of a Hub dataset's split in its ``cache``.

    Without a ``config``, it is the one called `default`, else the only one that is there.
    """
    namespace, _, written = dataset.rpartition("/")
    name = _snake_case(written)
    place = cache / (f"{namespace}___{name}" if namespace else name)
    if not config:
        there = [path.name for path in place.glob("*") if path.is_dir()]
        config = there[0] if len(there) == 1 else "default"
    is_of_split = re.compile(rf"{re.escape(f'{name}-{split}')}(-\d+-of-\d+)?\.arrow")
    versions: dict[Path, list[Path]] = {}
    for path in sorted((place / config).glob("*/*/*.arrow")):
        if is_of_split.fullmatch(path.name):
            versions.setdefault(path.parent, []).append(path)
    # Of several versions, the one that was made last.
    return max(versions.values(), key=lambda found: found[0].stat().st_mtime, default=[])


def count_records(path: Path, *, num_first: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many records a file has, and the first ones.

    Raises:
        TaskError: it is no file of a kind that is read here.

    """
    kind = path.suffix.lower()
    if kind not in _SUFFIXES:
        raise TaskError(f"records of {path.name} are not counted beforehand")
    if kind in _TABLES:
        return _count_rows(path, num_first)
    with path.open(encoding="utf-8", newline="") as file:
        if kind in (".csv", ".tsv"):
            csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_BYTES))
            records = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            first = [dict(record) for record in islice(records, num_first)]
            return len(first) + sum(1 for _ in records), first
        if kind == ".json" and file.read(1) == "[":
            found = json.loads(path.read_text("utf-8"))
            return len(found), found[:num_first]
        file.seek(0)
        lines = (line for line in file if line.strip())
        first = [json.loads(line) for line in islice(lines, num_first)]
        return len(first) + sum(1 for _ in lines), first


def _count_rows(path: Path, num_first: int) -> tuple[int, list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(num_first), None)
            return file.metadata.num_rows, batch.to_pylist() if batch else []
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        first: Sequence[dict[str, Any]] = table.slice(0, num_first).to_pylist()
        return table.num_rows, list(first)


def _snake_case(name: str) -> str:
    """Return a dataset's name as `datasets` writes it, whose import takes seconds."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()
