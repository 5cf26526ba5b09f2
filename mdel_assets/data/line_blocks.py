"""Read a compressed file as blocks of whole lines, decompressed ahead in a separate thread.

Blocks use a few buffers in turn: a block is valid until the next one is requested. Reads are large
because each one waits once for the interpreter's lock. An overlong line is skipped without being
held in memory, however large it unpacks.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mdel_assets.data.decompress import PlainBytes
from mdel_assets.data.text_stream import text_bytes

BLOCK_BYTES = 8 << 20
_NUM_BUFFERS = 3
_NEWLINE = b"\n"[0]
KEPT_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class Block:
    """``data[:size]`` holds whole lines; ``share_read`` is how much of the file is behind it.

    ``too_long`` is the beginning of the next line, if that was skipped for its length.
    """

    data: bytearray
    size: int
    share_read: float
    too_long: bytes | None = None

    def longest_line(self) -> int:
        """Return the bytes of the longest line, without its newline."""
        ends = np.flatnonzero(np.frombuffer(self.data, np.uint8, self.size) == _NEWLINE)
        return int(np.diff(ends, prepend=-1).max(initial=1)) - 1


def read_blocks(path: Path, *, max_line_bytes: int, is_array: bool = False) -> Iterator[Block]:
    """Yield the lines of a compressed or plain file in blocks of about 8 MiB.

    Every block ends with a newline (added to the last block if the file lacks it), or is empty
    before a line that is ``too_long``. A line of more than ``max_line_bytes`` may still be in a
    block if it fits into the buffer. ``is_array`` is passed on to `text_bytes`.

    Raises:
        ShardError: the file is truncated or corrupt.

    """
    filled: queue.Queue[Block | BaseException | None] = queue.Queue()
    free: queue.Queue[bytearray | None] = queue.Queue()
    for _ in range(_NUM_BUFFERS):
        free.put(bytearray(BLOCK_BYTES))

    def produce() -> None:
        try:
            for block in _fill(path, free, max_line_bytes, is_array=is_array):
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


def _fill(
    path: Path, free: "queue.Queue[bytearray | None]", limit: int, *, is_array: bool
) -> Iterator[Block]:
    total = max(1, path.stat().st_size)
    rest, at_end = b"", False
    opened = text_bytes(path, is_array=is_array)
    with opened as (stream, raw), contextlib.suppress(_StoppedError):
        while not at_end:
            data = _with_room(_next_free(free), len(rest), limit)
            data[: len(rest)] = rest
            size, at_end = _read_lines(stream, data, len(rest), limit)
            if at_end and size and data[size - 1] != _NEWLINE:
                data[size : size + 1] = b"\n"
                size += 1
            end = data.rfind(b"\n", 0, size) + 1
            if end or not size:
                rest = bytes(memoryview(data)[end:size])
                if end:
                    yield Block(data, end, raw.tell() / total)
            else:
                beginning = bytes(memoryview(data)[:KEPT_BYTES])
                rest, at_end = _pass_over_line(stream, data)
                yield Block(data, 0, raw.tell() / total, beginning)


def _read_lines(stream: PlainBytes, data: bytearray, size: int, limit: int) -> tuple[int, bool]:
    """Fill ``data`` from ``size`` on, and let it grow until it holds a whole line, or ``limit``.

    Return the new size, and whether the stream ended.
    """
    while True:
        with memoryview(data) as view:
            num_read = stream.readinto(view[size:])
        size += num_read
        if not num_read:
            return size, True
        if size == len(data):
            if size > limit or data.rfind(b"\n", 0, size) >= 0:
                return size, False
            data.extend(bytes(min(len(data), limit + BLOCK_BYTES - len(data))))


def _pass_over_line(stream: PlainBytes, data: bytearray) -> tuple[bytes, bool]:
    """Skip past the next newline; return the bytes read beyond it, and if the stream ended."""
    while True:
        with memoryview(data) as view:
            size = stream.readinto(view[:BLOCK_BYTES])
        if not size:
            return b"", True
        if end := data.find(b"\n", 0, size) + 1:
            return bytes(memoryview(data)[end:size]), False


def _with_room(data: bytearray, num_bytes: int, limit: int) -> bytearray:
    """Return a buffer of a block's size, or one that holds twice ``num_bytes`` if that is more.

    More than ``limit`` and a block's length is never needed.
    """
    wanted = max(BLOCK_BYTES, min(2 * num_bytes, limit + BLOCK_BYTES))
    return data if len(data) == wanted else bytearray(wanted)


class _StoppedError(Exception):
    """The consumer wants no more."""


def _next_free(free: "queue.Queue[bytearray | None]") -> bytearray:
    data = free.get()
    if data is None:
        raise _StoppedError
    return data
