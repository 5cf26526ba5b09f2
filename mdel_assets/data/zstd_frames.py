"""Follow a zstd file's frames while it is read, to know whether it is whole.

A decompressor that reads frame after frame stops silently if a file ends inside a frame.
`FrameWatcher` passes the file's bytes on and follows frame, block and checksum boundaries. This
costs a few operations per block and no second read. Format: RFC 8878.
"""

from typing import BinaryIO

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RLE_BLOCK, _RESERVED_BLOCK = 1, 3


class FrameError(ValueError):
    """The bytes are not a sequence of whole zstd frames."""


class FrameWatcher:
    """A readable file whose bytes must be whole zstd frames and skippable frames.

    `read` raises `FrameError` at the first byte that cannot be part of a frame; `require_whole`,
    called at the end, raises it if the file ends inside a frame.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next = self._magic
        self._needed = 4
        self._skip = 0
        self._held = b""
        self._descriptor = 0
        self._num_read = 0
        self.num_frames = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes of the file."""
        data = self._file.read(size)
        self._follow(data)
        self._num_read += len(data)
        return data

    def require_whole(self) -> None:
        """Raise `FrameError` unless the file ended where a frame did."""
        if self._held or self._skip or self._next != self._magic:
            raise FrameError(f"the file ends inside a zstd frame, after {self._num_read} bytes")
        if not self.num_frames:
            raise FrameError("the file holds no zstd frame")

    def _follow(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        place = 0
        while True:
            step = min(self._skip, len(data) - place)
            place += step
            self._skip -= step
            if self._skip or len(data) - place < self._needed:
                self._held = data[place:]
                return
            part = data[place : place + self._needed]
            place += self._needed
            self._next(part)

    def _magic(self, part: bytes) -> None:
        magic = int.from_bytes(part, "little")
        if magic == _MAGIC:
            self.num_frames += 1
            self._next, self._needed = self._descriptor_byte, 1
        elif magic in _SKIPPABLE:
            self._next, self._needed = self._skippable_size, 4
        else:
            where = "after a whole frame" if self.num_frames else "where a frame should begin"
            raise FrameError(f"bytes {part.hex()} {where} are not the start of a zstd frame")

    def _skippable_size(self, part: bytes) -> None:
        self._skip = int.from_bytes(part, "little")
        self._next, self._needed = self._magic, 4

    def _descriptor_byte(self, part: bytes) -> None:
        self._descriptor = part[0]
        is_single_segment = bool(self._descriptor & 0x20)
        size = _CONTENT_SIZE_BYTES[self._descriptor >> 6] or int(is_single_segment)
        size += _DICTIONARY_ID_BYTES[self._descriptor & 3]
        self._skip = size + (0 if is_single_segment else 1)
        self._next, self._needed = self._block, 3

    def _block(self, part: bytes) -> None:
        header = int.from_bytes(part, "little")
        kind = header >> 1 & 3
        if kind == _RESERVED_BLOCK:
            raise FrameError("a block of a reserved type: the file is corrupt")
        self._skip = 1 if kind == _RLE_BLOCK else header >> 3
        if header & 1:
            self._skip += 4 if self._descriptor & 4 else 0
            self._next, self._needed = self._magic, 4
