"""Digests of files, folders and texts: xxh3-128 in our records, sha256 where others know it."""

import hashlib
import os
from pathlib import Path

import xxhash


def file_digest(path: Path) -> str:
    """Return the xxh3-128 digest of a file, as 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def text_digest(text: str) -> str:
    """Return the xxh3-128 digest of a text in UTF-8, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(text.encode())


def file_number(path: Path) -> tuple[int, int]:
    """Return what two links to the same file have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino


def sha256_of(path: Path, *, xxh3: dict[tuple[int, int], str] | None = None) -> str:
    """Return a file's sha256 in hexadecimal, or that of a folder's listing.

    The listing has a line ``sha256  name`` for each file, by name. In the same reading, each file's
    `file_digest` is entered into ``xxh3``, by `file_number`.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{sha256_of(file, xxh3=xxh3)}  {file.relative_to(path)}\n" for file in files]
        return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()
    digest, other = hashlib.sha256(), xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if xxh3 is not None:
                other.update(block)
    if xxh3 is not None:
        xxh3[file_number(path)] = other.hexdigest()
    return digest.hexdigest()
