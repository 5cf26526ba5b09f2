"""Turn a text file into a document, or into the reason for rejecting it."""

from pathlib import Path

from mdel_assets.data.json_lines import RejectReason
from mdel_assets.data.line_blocks import KEPT_BYTES
from mdel_assets.data.text_stream import NotUtf16Error, read_up_to, text_bytes


def read_text(file: Path, *, max_bytes: int) -> tuple[bytes, RejectReason | None]:
    """Return a file's text in UTF-8; for a file that is not text, its first bytes and the reason.

    No more than ``max_bytes`` and one are read.

    Raises:
        ShardError: the file is compressed, and truncated or corrupt.

    """
    try:
        with text_bytes(file) as (stream, _):
            text = read_up_to(stream, max_bytes + 1)
    except NotUtf16Error:
        return b"", RejectReason.NOT_TEXT
    if len(text) > max_bytes:
        return text[:KEPT_BYTES], RejectReason.TOO_LONG
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return text, RejectReason.INVALID_UTF8
    return (text, RejectReason.NOT_TEXT) if b"\0" in text else (text, None)
