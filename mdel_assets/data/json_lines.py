"""One line of a shard to one document, or to the reason why it is none.

The fast path is a typed msgspec decoder that builds nothing but the two fields that are wanted.
Whatever it refuses goes through `read_slowly`, which repairs lone surrogates and names the reason.
"""

import dataclasses
import json
import operator
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

_SURROGATE = re.compile("[\ud800-\udfff]")


class RejectReason(StrEnum):
    """Why a line is not a document."""

    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_TEXT = "missing_text"
    TEXT_NOT_A_STRING = "text_not_a_string"
    MISSING_DOMAIN = "missing_domain"
    UNKNOWN_DOMAIN = "unknown_domain"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that was read the slow way: a document, a reject, or blank (neither)."""

    text: str = ""
    label: str = ""
    repaired: bool = False
    reject: RejectReason | None = None
    is_blank: bool = False


class LineReader:
    """Reads ``text_field`` and ``domain_field`` (dotted paths) from JSON lines."""

    def __init__(self, *, text_field: str, domain_field: str) -> None:
        self.text_path = tuple(text_field.split("."))
        self.domain_path = tuple(domain_field.split("."))
        struct, attributes = _struct_for([self.text_path, self.domain_path])
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
        self._get_text = operator.attrgetter(attributes[self.text_path])
        self._get_label = operator.attrgetter(attributes[self.domain_path])

    def read(self, line: bytes) -> tuple[str, str]:
        """Return (text, label) of a clean line; raise any exception on every other."""
        document = self._decode(line)
        return self._get_text(document), self._get_label(document)

    def read_slowly(self, line: bytes) -> Line:
        """Return the document of a line that `read` refused, or why it is none."""
        if not line.strip(b" \t\r\n"):
            return Line(is_blank=True)
        try:
            content = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            return Line(reject=RejectReason.INVALID_UTF8)
        except RecursionError:
            return Line(reject=RejectReason.TOO_DEEP)
        except ValueError:
            return Line(reject=RejectReason.INVALID_JSON)
        if not isinstance(content, dict):
            return Line(reject=RejectReason.NOT_AN_OBJECT)
        text, label = _dig(content, self.text_path), _dig(content, self.domain_path)
        if text is None:
            return Line(reject=RejectReason.MISSING_TEXT)
        if not isinstance(text, str):
            return Line(reject=RejectReason.TEXT_NOT_A_STRING)
        if not isinstance(label, str):
            return Line(reject=RejectReason.MISSING_DOMAIN)
        # After strict JSON, whatever is still a surrogate is a lone one: not a character.
        whole = _SURROGATE.sub("\ufffd", text)
        return Line(text=whole, label=label, repaired=whole != text)


def _dig(content: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = content
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _struct_for(paths: list[tuple[str, ...]]) -> tuple[type, dict[tuple[str, ...], str]]:
    """Return a struct that holds just the string leaves at ``paths``, and each one's attribute."""
    places: list[tuple[str, Any]] = []
    rename: dict[str, str] = {}
    attributes: dict[tuple[str, ...], str] = {}
    for position, head in enumerate(dict.fromkeys(path[0] for path in paths)):
        name = f"field_{position}"
        rename[name] = head
        tails = [path[1:] for path in paths if path[0] == head and len(path) > 1]
        if not tails:
            places.append((name, str))
            attributes[(head,)] = name
            continue
        inner, inner_attributes = _struct_for(tails)
        places.append((name, inner))
        for tail, attribute in inner_attributes.items():
            attributes[(head, *tail)] = f"{name}.{attribute}"
    return msgspec.defstruct("Document", places, rename=rename, gc=False), attributes
