"""Compressed files: whole ones give their content, any other is refused."""

import gzip
import struct

import pytest
import zstandard

from mdel_assets.data.decompress import plain_bytes
from mdel_assets.errors import ShardError

CONTENT = b"".join(b'{"text":"%d"}\n' % (i * i) for i in range(50_000))
FRAME = zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)
BARE_FRAME = zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT)
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"hello"
MEMBER = gzip.compress(CONTENT)


def read(path, *, size=1 << 20):
    found = []
    buffer = bytearray(size)
    with plain_bytes(path) as (stream, _):
        while filled := stream.readinto(memoryview(buffer)):
            found.append(bytes(buffer[:filled]))
    return b"".join(found)


WHOLE = {
    "one.zst": (FRAME, 1),
    "no-checksum.zst": (BARE_FRAME, 1),
    "concatenated.zst": (FRAME + BARE_FRAME, 2),
    "skippable-first.zst": (SKIPPABLE + FRAME, 1),
    "skippable-between.zst": (FRAME + SKIPPABLE + FRAME, 2),
    "skippable-last.zst": (FRAME + SKIPPABLE, 1),
    "empty-frame.zst": (zstandard.compress(b""), 0),
    "one.gz": (MEMBER, 1),
    "concatenated.gz": (MEMBER + MEMBER, 2),
    "padded.gz": (MEMBER + bytes(9), 1),
    "plain.jsonl": (CONTENT, 1),
}
BROKEN = {
    "empty.zst": b"",
    "inside-the-magic.zst": FRAME[:3],
    "after-the-magic.zst": FRAME[:4],
    "inside-the-header.zst": FRAME[:6],
    "half.zst": FRAME[: len(FRAME) // 2],
    "no-checksum-left.zst": FRAME[:-4],
    "last-byte-missing.zst": FRAME[:-1],
    "second-frame-cut-in-its-magic.zst": FRAME + FRAME[:3],
    "skippable-cut.zst": FRAME + SKIPPABLE[:-1],
    "garbage.zst": FRAME + b"garbage",
    "one-byte-of-garbage.zst": FRAME + b"x",
    "zeros.zst": FRAME + bytes(9),
    "flipped-byte.zst": FRAME[:2000] + bytes([FRAME[2000] ^ 64]) + FRAME[2001:],
    "not-zstd.zst": CONTENT,
    "empty.gz": b"",
    "inside-the-magic.gz": MEMBER[:1],
    "half.gz": MEMBER[: len(MEMBER) // 2],
    "last-byte-missing.gz": MEMBER[:-1],
    "second-member-cut.gz": MEMBER + MEMBER[:15],
    "garbage.gz": MEMBER + b"garbage",
    "flipped-byte.gz": MEMBER[:2000] + bytes([MEMBER[2000] ^ 64]) + MEMBER[2001:],
    "not-gzip.gz": CONTENT,
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_whole_files_give_their_content(tmp_path, name, size):
    compressed, times = WHOLE[name]
    (tmp_path / name).write_bytes(compressed)
    assert read(tmp_path / name, size=size) == CONTENT * times


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(ShardError, match=r"is not a whole .* fetch it again"):
        read(tmp_path / name)


@pytest.mark.parametrize("frame", [FRAME, BARE_FRAME, MEMBER], ids=["checksum", "bare", "gzip"])
def test_a_file_cut_anywhere_is_refused(tmp_path, frame):
    path = tmp_path / ("cut.gz" if frame is MEMBER else "cut.zst")
    for kept in [*range(40), *range(len(frame) - 40, len(frame))]:
        path.write_bytes(frame[:kept])
        with pytest.raises(ShardError):
            read(path)


def test_a_window_above_128_mib_is_read(tmp_path):
    """Such a file is written with --long=28 and more; its reader needs as much memory."""
    parameters = zstandard.ZstdCompressionParameters(compression_level=1, window_log=28)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    piece = bytes(1 << 20)
    with (tmp_path / "long.zst").open("wb") as file:
        for _ in range(200):
            file.write(writer.compress(piece))
        file.write(writer.flush())
    content = (tmp_path / "long.zst").read_bytes()
    assert zstandard.get_frame_parameters(content).window_size == 1 << 28
    total = 0
    buffer = bytearray(8 << 20)
    with plain_bytes(tmp_path / "long.zst") as (stream, _):
        while filled := stream.readinto(memoryview(buffer)):
            total += filled
    assert total == 200 << 20
