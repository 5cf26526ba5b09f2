"""Chunks: documents that are scored together, and the files that keep a chunk's scores.

Chunks are cut from all documents that earlier scores lack. So a chunk, and the rounding in it, does
not depend on what was scored before a kill, or by which of several processes.
"""

import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mdel_assets.store.digests import text_digest
from mdel_assets.store.durable_files import sync


def chunks_of(keys: Sequence[str], num_tokens: Mapping[str, int], size: int) -> list[list[str]]:
    """Return ids from the longest document to the shortest, about ``size`` tokens in each chunk."""
    chunks: list[list[str]] = []
    held = size
    for key in sorted(keys, key=num_tokens.__getitem__, reverse=True):
        if held >= size:
            chunks.append([])
            held = 0
        chunks[-1].append(key)
        held += num_tokens[key]
    return chunks


def missing_in(chunks: Sequence[Sequence[str]], missing: Collection[str]) -> list[list[str]]:
    """Return what of each chunk is ``missing``, without the chunks that are whole."""
    left = [[key for key in chunk if key in missing] for chunk in chunks]
    return [chunk for chunk in left if chunk]


def keep_chunk(folder: Path, table: pa.Table) -> None:
    """Write a chunk's scores into ``folder``, completely or not at all."""
    keys = "".join(table.column("document_id").to_pylist())
    final = folder / f"{text_digest(keys)}.parquet"
    # Another machine may be writing the same.
    partial = final.with_suffix(f".partial-{socket.gethostname()}-{os.getpid()}")
    pq.write_table(table, partial, compression="zstd", use_dictionary=False)
    sync(partial)
    os.replace(partial, final)


def chunk_files(folder: Path) -> list[Path]:
    """Return the files with the scores of finished chunks."""
    return sorted(folder.glob("*.parquet"))


def documents_in(paths: Iterable[Path]) -> set[str]:
    """Return the ids of the documents whose scores lie in ``paths``."""
    found = [pq.read_table(path, columns=["document_id"]).column(0) for path in paths]
    return {key for column in found for key in column.to_pylist()}
