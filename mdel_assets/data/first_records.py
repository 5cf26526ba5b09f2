"""Run the pass over the first records of a source, to see quickly how it reads them.

The records are copied into a small shard of the same kind, and the normal pass reads that shard.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mdel_assets.data.file_kinds import plain_suffix
from mdel_assets.data.folder_files import folder_files
from mdel_assets.data.shard_counts import ShardCounts
from mdel_assets.data.shard_pass import route_documents
from mdel_assets.data.text_stream import begins_array, read_up_to, text_bytes
from mdel_assets.experiment.fields import Domain, Source

_NUM_RECORDS = 1000
_HEAD_BYTES = 1 << 20
_NUM_FOLDERS, _NUM_FILES = 200, 5
_COMPRESSED = (".zst", ".gz", ".bz2", ".xz")
_LINES = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv")


def count_first_records(
    shard: Path, *, domains: Sequence[Domain] | None, source: Source
) -> ShardCounts | None:
    """Return what a pass finds in the first records of a file, or in some files of each folder.

    None where no beginning of such a file can be told from its end.

    Raises:
        ShardError: the file is corrupt, or none of its first records is a document.

    """
    with tempfile.TemporaryDirectory(prefix="mdel-first-records-") as folder:
        head = Path(folder) / "head"
        documents = Path(folder) / "documents"
        for place in (head, documents):
            place.mkdir()
        found = _copy_some(shard, head / shard.name) if shard.is_dir() else _copy_head(shard, head)
        if found is None:
            return None
        # The limit on rejects applies to a whole shard.
        source = source.model_copy(update={"max_reject_rate": 1.0})
        return route_documents(found, documents, domains=domains, source=source)


def _copy_head(file: Path, folder: Path) -> Path | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".parquet"]:
        return _copy_rows(file, folder / file.name)
    is_lines = any(suffix in (*_LINES, *_TABLES) for suffix in suffixes[-2:]) or not suffixes
    plain = file.stem if suffixes and suffixes[-1] in _COMPRESSED else file.name
    return _copy_lines(file, folder / plain) if is_lines else None


def _copy_rows(file: Path, target: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mdel_assets.errors import ShardError

    try:
        with pq.ParquetFile(file) as rows:
            batch = next(rows.iter_batches(_NUM_RECORDS), None)
            table = rows.schema_arrow.empty_table() if batch is None else None
        pq.write_table(pa.Table.from_batches([batch]) if batch else table, target)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{file.name} is not a whole Parquet file: {error}.") from error
    return target


def _copy_lines(file: Path, target: Path) -> Path | None:
    """Copy the first lines, in UTF-8; of one JSON array, its first elements as lines."""
    is_array = plain_suffix(file) == ".json" and begins_array(file)
    with text_bytes(file, is_array=is_array) as (stream, _):
        head = read_up_to(stream, _HEAD_BYTES)
    lines = head.split(b"\n")
    if len(head) == _HEAD_BYTES:
        # The last line may be incomplete.
        lines.pop()
    lines = lines[:_NUM_RECORDS]
    if plain_suffix(file) in _TABLES:
        lines = _whole_rows(lines)
    if not lines:
        return None
    target = target.with_suffix(".jsonl") if is_array else target
    target.write_bytes(b"\n".join(lines))
    return target


def _whole_rows(lines: list[bytes]) -> list[bytes]:
    """Return the first lines of a table up to the last that ends a row: outside of quotes."""
    quotes = itertools.accumulate(line.count(b'"') for line in lines)
    ends = [number for number, count in enumerate(quotes, start=1) if count % 2 == 0]
    return lines[: ends[-1]] if ends else lines


def _copy_some(shard: Path, target: Path) -> Path:
    """Copy the heads of the first files of each folder, and link small files of other kinds."""
    folders = sorted(path for path in shard.iterdir() if path.is_dir())[:_NUM_FOLDERS]
    target.mkdir()
    for folder in folders:
        for file in folder_files(folder)[:_NUM_FILES]:
            place = target / folder.name / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            if _copy_head(file, place.parent) is None and file.stat().st_size <= _HEAD_BYTES:
                place.symlink_to(file.resolve())
    return target
