"""Look at a corpus that has no experiment yet: its layout, fields and labels.

Some records of its files are read (`some_records`). The field with the most text is the text; the
domain is in a field with few labels, or else in the names of folders.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mdel_assets.data.corpus_files import CorpusFile, CorpusFiles, Role, corpus_files
from mdel_assets.data.file_kinds import looks_like
from mdel_assets.data.likely_fields import (
    TEXT_FILE,
    Layout,
    Seen,
    domain_field_of,
    layout_of,
    readable,
    text_field_of,
)
from mdel_assets.data.other_labels import simplified
from mdel_assets.data.some_records import Value, some_records
from mdel_assets.errors import ShardError

# What is read of a corpus at most, whatever its size.
_NUM_RECORDS, _NUM_BYTES, _NUM_FILES, _NUM_FOLDERS = 100_000, 1 << 28, 64, 500


@dataclasses.dataclass(frozen=True)
class LabelCount:
    """A label, its other spellings, and about how much text the corpus has of it."""

    name: str
    aliases: tuple[str, ...]
    num_documents: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Counts:
    """About how much there is, judging by ``num_seen`` records; if ``is_whole``, these are all.

    ``labels`` are sorted, most text first; there are none where nothing names a domain.
    ``labels_of`` are those of each file that was read to its end. ``reject_rate`` is the greatest
    share of a shard's records without a text or a label, shards without any document apart.
    """

    labels: tuple[LabelCount, ...]
    labels_of: Mapping[Path, frozenset[str]]
    num_seen: int
    is_whole: bool
    num_documents: int
    num_bytes: int
    reject_rate: float


@dataclasses.dataclass(frozen=True)
class Places:
    """The shards: files, or folders of folders with layout ``folders``."""

    train: tuple[Path, ...]
    validation: Path | None
    test: Path | None


@dataclasses.dataclass(frozen=True)
class CorpusLook:
    """What a corpus seems to be; ``doubts`` are sentences about what may be otherwise."""

    layout: Layout
    places: Places
    text_field: str
    domain_field: str | None
    counts: Counts
    doubts: tuple[str, ...]


def look_at(paths: Sequence[Path]) -> CorpusLook:
    """Return what the corpus in some files or folders seems to be.

    Raises:
        ShardError: there is nothing that can be read, or no field holds text.

    """
    files = corpus_files(paths)
    train = [file for file in files.of("train") if files.are_texts or file.kind != "text"]
    seen = _see(train)
    told: list[str | None] = [*files.doubts]
    if len(train) < len(files.of("train")):
        told.append("Text files beside the files of records are not read.")
    text_field, domain_field = "text", None
    if any(file.kind != "text" for file in train):
        likely, told_of_text = text_field_of(seen)
        if likely is None:
            raise _no_text(seen)
        text_field = likely
        domain_field, told_of_domain = domain_field_of(seen, text_field)
        told += [told_of_text, told_of_domain]
    folders = {file.folder for file in train}
    is_in_folders = domain_field is None and "" not in folders
    if files.are_texts and not is_in_folders:
        raise _texts_without_folder(train)
    if is_in_folders and (files.are_texts or len(folders) > 1):
        layout: Layout = "folders"
    else:
        layout = layout_of(seen, text_field, domain_field)
    places, told_of_places = _places(files, train, layout)
    counts = _counts(seen, layout, text_field, domain_field)
    doubts = tuple(one for one in (*told, *told_of_places) if one)
    return CorpusLook(layout, places, text_field, domain_field, counts, doubts)


def _see(files: Sequence[CorpusFile]) -> list[Seen]:
    """Return records of files, a part of them where there are many."""
    chosen = [file for file in files if file.kind != "text"]
    firsts = list({file.folder: file for file in reversed(chosen)}.values())[:_NUM_FOLDERS]
    looked_at = {*chosen[:: -(-len(chosen) // _NUM_FILES) or 1], *firsts}
    there, read = Counter[str](), Counter[str]()
    for file in chosen:
        there[file.folder] += file.size_bytes
        read[file.folder] += file.size_bytes * (file in looked_at)
    found = [_text_file(file) for file in files if file.kind == "text"]
    for file in sorted(looked_at, key=lambda file: file.path):
        some = some_records(
            file.path,
            file.kind,
            num_records=_NUM_RECORDS // len(looked_at),
            num_bytes=_NUM_BYTES // len(looked_at),
        )
        scale = there[file.folder] / max(1, read[file.folder]) / max(some.share_read, 1e-9)
        found.append(Seen(file, some.records, some.share_read, scale))
    return found


def _text_file(file: CorpusFile) -> Seen:
    return Seen(file, [{TEXT_FILE: Value(file.size_bytes, None)}], 1.0, 1.0)


def _counts(
    seen: Sequence[Seen], layout: Layout, text_field: str, domain_field: str | None
) -> Counts:
    documents, sizes = defaultdict[str, float](float), defaultdict[str, float](float)
    labels_of: dict[Path, frozenset[str]] = {}
    num_seen, num_rejects = Counter[Path](), Counter[Path]()
    for one in seen:
        shard = (layout == "folders" and one.file.root) or one.file.path
        own: set[str] = set()
        for read in one.records:
            record = read or {}
            num_seen[shard] += 1
            text = record.get(TEXT_FILE) or record.get(text_field)
            named = record.get(domain_field) if domain_field else Value(0, one.file.folder)
            if not text or not text.text_bytes or not named or named.label is None:
                num_rejects[shard] += 1
                continue
            own.add(named.label)
            documents[named.label] += one.scale
            sizes[named.label] += one.scale * text.text_bytes
        if one.share_read >= 1:
            labels_of[one.file.path] = frozenset(own)
    rates = [num_rejects[shard] / count for shard, count in num_seen.items()]
    return Counts(
        labels=_labels(documents, sizes) if domain_field or layout == "folders" else (),
        labels_of=labels_of,
        num_seen=num_seen.total(),
        is_whole=all(one.scale == 1 for one in seen),
        num_documents=round(sum(documents.values())),
        num_bytes=round(sum(sizes.values())),
        reject_rate=max((rate for rate in rates if rate < 1), default=0.0),
    )


def _labels(documents: Mapping[str, float], sizes: Mapping[str, float]) -> tuple[LabelCount, ...]:
    """Return the labels, most text first; spellings of one label are its aliases."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(documents, key=lambda label: -documents[label]):
        alike[simplified(label)].append(label)
    found = [
        LabelCount(
            name=names[0],
            aliases=tuple(names[1:]),
            num_documents=round(sum(documents[name] for name in names)),
            num_bytes=round(sum(sizes[name] for name in names)),
        )
        for names in alike.values()
    ]
    return tuple(sorted(found, key=lambda label: (-label.num_bytes, label.name)))


def _places(
    files: CorpusFiles, train: Sequence[CorpusFile], layout: Layout
) -> tuple[Places, list[str]]:
    """Return the shards, and sentences about files that are left out."""

    def shards(chosen: Iterable[CorpusFile]) -> list[Path]:
        places = (file.root if layout == "folders" else file.path for file in chosen)
        return list(dict.fromkeys(place for place in places if place))

    taken, doubts = shards(train), []
    held_out: dict[Role, Path | None] = {}
    roles: tuple[Role, ...] = ("validation", "test")
    for role in roles:
        found = [place for place in shards(files.of(role)) if place not in taken]
        held_out[role] = found[0] if found else None
        if found[1:]:
            names = ", ".join(place.name for place in found[1:])
            doubts.append(f"{role}: it takes one shard; not read: {names}. Join them into one.")
    return Places(tuple(taken), held_out["validation"], held_out["test"]), doubts


def _no_text(seen: Sequence[Seen]) -> ShardError:
    fields = sorted({path for record in readable(seen) for path in record})
    first = seen[0].file.path
    look = looks_like(first, text_field="text")
    told = f" {first.name} looks like {look}." if look else ""
    return ShardError(
        f"No field holds text in half of the records. Fields: {', '.join(fields) or 'none'}.{told} "
        f"Expected a field of strings, or a folder of text files for each domain."
    )


def _texts_without_folder(train: Sequence[CorpusFile]) -> ShardError:
    outside = next(file.path for file in train if not file.folder)
    return ShardError(
        f"{outside} is a text file in no folder. Text files are read from the folders in the one "
        f"that you name: put each domain's into a folder, or name the folder above."
    )
