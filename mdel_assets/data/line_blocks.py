"""A compressed file as blocks of whole lines, decompressed ahead in a thread of its own.

Blocks lie in a few buffers that are used again and again: a block is gone when the next is asked
for. Large reads matter: each one waits for the interpreter's lock once.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.data.decompress import PlainBytes, plain_bytes

BLOCK_BYTES = 8 << 20
_NUM_BUFFERS = 3
_NEWLINE = b"\n"[0]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Block:
    """``data[:size]`` holds whole lines; ``share_read`` is how much of the file is behind it."""

    data: bytearray
    size: int
    share_read: float


def read_blocks(path: Path) -> Iterator[Block]:
    """Yield the lines of a zstd, gzip or plain file in blocks of about 8 MiB.

    Every block ends with a newline, the last one perhaps with one that the file lacks. A byte order
    mark at the very beginning is left out.

    Raises:
        ShardError: the file is truncated or corrupt.

    """
    filled: queue.Queue[Block | BaseException | None] = queue.Queue()
    free: queue.Queue[bytearray | None] = queue.Queue()
    for _ in range(_NUM_BUFFERS):
        free.put(bytearray(BLOCK_BYTES))

    def produce() -> None:
        try:
            for block in _fill(path, free):
                filled.put(block)
            filled.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            filled.put(error)

    thread = threading.Thread(target=produce, name="decompress", daemon=True)
    thread.start()
    try:
        while block := filled.get():
            if isinstance(block, BaseException):
                raise block
            yield block
            free.put(block.data)
    finally:
        free.put(None)
        thread.join()


def _fill(path: Path, free: "queue.Queue[bytearray | None]") -> Iterator[Block]:
    total = max(1, path.stat().st_size)
    rest, is_first, at_end = b"", True, False
    with plain_bytes(path) as (stream, raw), contextlib.suppress(_StoppedError):
        while not at_end:
            data = _with_room(_next_free(free), len(rest))
            data[: len(rest)] = rest
            size, at_end = _read_lines(stream, data, len(rest))
            if is_first and data.startswith(_BYTE_ORDER_MARK):
                del data[: len(_BYTE_ORDER_MARK)]
                size -= len(_BYTE_ORDER_MARK)
            is_first = False
            if at_end and size and data[size - 1] != _NEWLINE:
                data[size : size + 1] = b"\n"
                size += 1
            end = data.rfind(b"\n", 0, size) + 1
            rest = bytes(memoryview(data)[end:size])
            if end:
                yield Block(data, end, raw.tell() / total)


def _read_lines(stream: PlainBytes, data: bytearray, size: int) -> tuple[int, bool]:
    """Fill ``data`` from ``size`` on, and let it grow until it holds a whole line.

    Return the new size, and whether the stream ended.
    """
    while True:
        with memoryview(data) as view:
            num_read = stream.readinto(view[size:])
        size += num_read
        if not num_read:
            return size, True
        if size == len(data):
            if data.rfind(b"\n", 0, size) >= 0:
                return size, False
            data.extend(bytes(len(data)))


def _with_room(data: bytearray, num_bytes: int) -> bytearray:
    """Return a buffer of a block's size, or one that holds twice ``num_bytes`` if that is more."""
    wanted = max(BLOCK_BYTES, 2 * num_bytes)
    return data if len(data) == wanted else bytearray(wanted)


class _StoppedError(Exception):
    """The consumer wants no more."""


def _next_free(free: "queue.Queue[bytearray | None]") -> bytearray:
    data = free.get()
    if data is None:
        raise _StoppedError
    return data
