"""Guess which fields of some records hold the text and the domain, and so the layout."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from mdel_assets.data.corpus_files import CorpusFile
from mdel_assets.data.some_records import Record

Layout = Literal["pile", "dolma", "columns", "folders"]
# The only field of a record that is a text file.
TEXT_FILE = ""
_TEXT_NAMES = ("text", "content", "body", "document", "article")
_DOMAIN_NAMES = (
    *("pile_set_name", "domain", "topic", "category", "subject", "section", "genre", "field"),
    *("source", "subset", "dataset", "corpus", "label", "class"),
)
_UNLIKELY_NAMES = (
    *("lang", "language", "license", "licence", "date", "year", "created", "added", "version"),
    *("author", "user", "format", "type", "kind", "mime"),
)
_NO_DOMAIN_NAMES = ("split", "fold", "partition")
_MAX_LABELS, _RECORDS_PER_LABEL, _SHARE_LABELLED = 1000, 5, 0.9
# A label with so small a share of the records says nothing about the field that holds it.
_TELLING_SHARE = 0.01
_PILE_FIELD, _DOLMA_FIELD, _DOLMA_FIELDS = "meta.pile_set_name", "source", {"id", "added"}


@dataclasses.dataclass(frozen=True)
class Seen:
    """Records of a file, each of which stands for ``scale`` records of the corpus."""

    file: CorpusFile
    records: list[Record | None]
    share_read: float
    scale: float


def readable(seen: Iterable[Seen]) -> Iterator[Record]:
    """Yield the records that can be read."""
    return (record for one in seen for record in one.records if record is not None)


def text_field_of(seen: Sequence[Seen]) -> tuple[str | None, str | None]:
    """Return the field with the most text, and which others have about as much."""
    sizes, counts, num_records = Counter[str](), Counter[str](), 0
    for record in readable(seen):
        num_records += TEXT_FILE not in record
        for path, value in record.items():
            if path != TEXT_FILE and value.text_bytes:
                sizes[path] += value.text_bytes
                counts[path] += 1
    often = [path for path, _ in sizes.most_common() if 2 * counts[path] >= num_records]
    if not often:
        return None, None
    alike = [path for path in often if 2 * sizes[path] >= sizes[often[0]]]
    chosen = next((path for path in alike if _last(path) in _TEXT_NAMES), alike[0])
    others = [f"`{path}`" for path in alike if path != chosen]
    told = f"text_field: {', '.join(others)} holds about as much text as `{chosen}`."
    return chosen, told if others else None


def _last(path: str) -> str:
    return path.rpartition(".")[2].lower()


def domain_field_of(seen: Sequence[Seen], text_field: str) -> tuple[str | None, str | None]:
    """Return the field that most likely names the domain, and which others may."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    words, num_records = Counter[str](), 0
    for record in readable(seen):
        num_records += 1
        for path, value in record.items():
            if value.label is not None and len(labels[path]) <= _MAX_LABELS:
                labels[path][value.label] += 1
                words[path] += value.is_word
    most = min(_MAX_LABELS, num_records // _RECORDS_PER_LABEL)
    found = [
        (_rank(path), len(counts), path)
        for path, counts in labels.items()
        if path != text_field and _last(path) not in _NO_DOMAIN_NAMES
        if counts.total() >= _SHARE_LABELLED * num_records and 2 <= len(counts) <= most
        if words[path] or _last(path) in _DOMAIN_NAMES
        if sum(count >= _TELLING_SHARE * num_records for count in counts.values()) >= 2
    ]
    if not found:
        return None, None
    (_, _, chosen), *others = sorted(found)
    shown = [f"`{path}` ({count} labels)" for _, count, path in others]
    told = f"domain_field: instead of `{chosen}`, it could be {', '.join(shown)}."
    return chosen, told if others else None


def _rank(path: str) -> int:
    """Return how unlikely a name is that of the field with the domain."""
    name = _last(path)
    if name in _DOMAIN_NAMES:
        return _DOMAIN_NAMES.index(name)
    return len(_DOMAIN_NAMES) + (name in _UNLIKELY_NAMES)


def layout_of(seen: Sequence[Seen], text_field: str, domain_field: str | None) -> Layout:
    """Return the layout that files of records have by their fields."""
    is_json = all(one.file.kind in ("lines", "array") for one in seen)
    if is_json and text_field == "text" and domain_field == _PILE_FIELD:
        return "pile"
    fields = {path for record in readable(seen) for path in record}
    is_dolma = domain_field == _DOLMA_FIELD and fields >= _DOLMA_FIELDS
    return "dolma" if is_json and text_field == "text" and is_dolma else "columns"
