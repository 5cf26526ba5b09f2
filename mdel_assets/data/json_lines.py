"""Turn lines of JSON into documents, or into reasons for rejecting them.

`LineReader.read_block` decodes a block of whole lines in one call if every line is clean. Any other
block goes line by line through `read`, and a line that this refuses through `read_slowly`, which
repairs lone surrogates and names the reason. The outcome of a line never depends on the path.
"""

import dataclasses
import json
import operator
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGER_DIGITS = 20
_OPEN, _CLOSE, _NEWLINE, _RETURN = b"{}\n\r"


class RejectReason(StrEnum):
    """Why a line is not a document."""

    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_TEXT = "missing_text"
    TEXT_NOT_A_STRING = "text_not_a_string"
    LONE_SURROGATE = "lone_surrogate"
    MISSING_DOMAIN = "missing_domain"
    DOMAIN_NOT_A_LABEL = "domain_not_a_label"
    UNKNOWN_DOMAIN = "unknown_domain"
    TOO_LONG = "too_long"
    INVALID_ROW = "invalid_row"
    NOT_TEXT = "not_text"


@dataclasses.dataclass(frozen=True)
class Fields:
    """Dotted paths of the fields of a record; a path that is None is not read.

    If ``of_other_types`` is true, a list of strings is one text, integers and booleans are labels,
    and a path may be the whole name of a field. Corpora of a fixed form, such as the Pile, do not
    need this.
    """

    text: str
    domain: str | None
    license: str | None = None
    of_other_types: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that was read the slow way: a document, a reject, or blank (neither)."""

    text: str = ""
    label: str = ""
    license: str | None = None
    repaired: bool = False
    reject: RejectReason | None = None
    is_blank: bool = False


class LineReader:
    """Reads text, domain label and licence from JSON lines.

    If ``fields.domain`` is None, ``label`` is every document's label.
    """

    def __init__(self, fields: Fields, *, label: str = "") -> None:
        self.fields = fields
        self.label = label
        paths = [tuple(fields.text.split("."))]
        if fields.domain:
            paths.append(tuple(fields.domain.split(".")))
        optional = tuple(fields.license.split(".")) if fields.license else None
        struct, attributes = _struct_for(paths, optional)
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
        self._decode_lines: Callable[[Any], list[Any]] = msgspec.json.Decoder(struct).decode_lines
        self.get_text: Callable[[Any], str] = operator.attrgetter(attributes[paths[0]])
        self.get_label: Callable[[Any], str] = (
            operator.attrgetter(attributes[paths[1]]) if fields.domain else lambda _: label
        )
        self.get_license: Callable[[Any], str | None] = (
            _optional_getter(attributes[optional]) if optional else lambda _: None
        )

    def read_block(self, block: bytearray, size: int) -> list[Any] | None:
        """Return one decoded record per line of ``block[:size]``, or None if a line is not clean.

        Ask `get_text`, `get_label` and `get_license` for a record's fields.
        """
        num_lines = _num_object_lines(np.frombuffer(block, np.uint8, size))
        if not num_lines or not _is_utf8(block, size):
            return None
        try:
            records = self._decode_lines(memoryview(block)[:size])
        except Exception:  # noqa: BLE001  (whatever the reason, the slow way names it)
            return None
        return records if len(records) == num_lines else None

    def read(self, line: bytes) -> Any:
        """Return the decoded record of a clean line; raise any exception on every other."""
        if not line.isascii():
            line.decode("utf-8")
        return self._decode(line)

    def read_slowly(self, line: bytes) -> Line:
        """Return the document of a line that `read` refused, or the reason why it is rejected."""
        if not line.strip(b" \t\r\n"):
            return Line(is_blank=True)
        try:
            content = json.loads(line.decode("utf-8"), parse_int=_number)
        except UnicodeDecodeError:
            return Line(reject=RejectReason.INVALID_UTF8)
        except RecursionError:
            return Line(reject=RejectReason.TOO_DEEP)
        except ValueError:
            return Line(reject=RejectReason.INVALID_JSON)
        if not isinstance(content, dict):
            return Line(reject=RejectReason.NOT_AN_OBJECT)
        text = _dig(content, self.fields.text)
        label = _dig(content, self.fields.domain) if self.fields.domain else self.label
        granted = _dig(content, self.fields.license) if self.fields.license else None
        if self.fields.of_other_types:
            text = _as_text(content.get(self.fields.text) if text is None else text)
            label = _as_label(content.get(self.fields.domain) if label is None else label)
        if text is None:
            return Line(reject=RejectReason.MISSING_TEXT)
        if not isinstance(text, str):
            return Line(reject=RejectReason.TEXT_NOT_A_STRING)
        if label is None:
            return Line(reject=RejectReason.MISSING_DOMAIN)
        if not isinstance(label, str):
            return Line(reject=RejectReason.DOMAIN_NOT_A_LABEL)
        # After strict JSON, whatever is still a surrogate is a lone one: not a character.
        whole = _SURROGATE.sub("\ufffd", text)
        return Line(
            text=whole,
            label=_SURROGATE.sub("\ufffd", label),
            license=granted if isinstance(granted, str) else None,
            repaired=whole != text,
        )


def _num_object_lines(data: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """Return how many lines ``data`` has if each begins with ``{`` and ends with ``}``, else 0.

    A newline between ``}`` and ``{`` cannot lie inside a JSON value, so a decoder that finds as
    many values as there are such lines found exactly one in each.
    """
    ends = np.flatnonzero(data == _NEWLINE)
    if not len(ends) or ends[-1] != len(data) - 1 or ends[0] < 2 or data[0] != _OPEN:
        return 0
    before = data[ends - 1]
    before = np.where(before == _RETURN, data[ends - 2], before)
    if (before != _CLOSE).any() or (data[ends[:-1] + 1] != _OPEN).any():
        return 0
    return len(ends)


def _is_utf8(block: bytearray, size: int) -> bool:
    """Whether all of ``block[:size]`` is UTF-8: the decoder looks only at the fields it builds."""
    offsets = pa.py_buffer(np.array([0, size], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(block)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _dig(content: dict[str, Any], path: str) -> Any:
    value: Any = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _number(digits: str) -> int | float:
    """Return a number; for endless digits only the type matters."""
    return int(digits) if len(digits) < _INTEGER_DIGITS else float(digits)


def _as_text(value: Any) -> Any:
    """Return a list of strings as one text with an item per line; other values unchanged."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return value


def _as_label(value: Any) -> Any:
    """Return an integer or a boolean as JSON writes it; other values unchanged."""
    return json.dumps(value) if isinstance(value, int) else value


def _optional_getter(attribute: str) -> Callable[[Any], str | None]:
    parts = attribute.split(".")

    def get(record: Any) -> Any:
        for part in parts:
            record = getattr(record, part, None)
        return record

    return get


def _struct_for(
    required: Sequence[tuple[str, ...]], optional: tuple[str, ...] | None
) -> tuple[type, dict[tuple[str, ...], str]]:
    """Return a struct that holds just the string leaves at these paths, and each one's attribute.

    The optional leaf, and an object that holds nothing else, may be absent or null.
    """
    places: list[Any] = []
    rename: dict[str, str] = {}
    attributes: dict[tuple[str, ...], str] = {}
    paths = [*required, optional] if optional else required
    for position, head in enumerate(dict.fromkeys(path[0] for path in paths)):
        name = f"field_{position}"
        rename[name] = head
        tails = [path[1:] for path in required if path[0] == head]
        rest = optional[1:] if optional and optional[0] == head else None
        kind: Any = str
        if any(tails) or rest:
            kind, inner_attributes = _struct_for([tail for tail in tails if tail], rest)
            attributes |= {(head, *t): f"{name}.{a}" for t, a in inner_attributes.items()}
        else:
            attributes[(head,)] = name
        places.append((name, kind) if tails else (name, kind | None, None))
    # Fields with a default come last.
    places.sort(key=len)
    return msgspec.defstruct("Record", places, rename=rename, gc=False), attributes
