"""The files of a corpus that has no experiment yet: which are read, and which are held out."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from mdel_assets.data.file_kinds import FileKind, file_kind, plain_suffix
from mdel_assets.data.folder_files import folder_files
from mdel_assets.errors import ShardError

Role = Literal["train", "validation", "test"]
_WORDS: dict[str, Role] = {
    **dict.fromkeys(("val", "valid", "validation", "dev", "heldout"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_TRAIN = {"train", "training"}
_ROLE_WORDS = {*_WORDS, *_TRAIN}
_NUM_SUFFIXES = 5


@dataclasses.dataclass(frozen=True)
class CorpusFile:
    """A file that is read. ``folder`` is the first folder under ``root``, if it is in one."""

    path: Path
    kind: FileKind
    size_bytes: int
    role: Role
    root: Path | None
    folder: str


@dataclasses.dataclass(frozen=True)
class CorpusFiles:
    """The files under some paths, and sentences about what is not read."""

    files: tuple[CorpusFile, ...]
    doubts: tuple[str, ...]

    def of(self, role: Role) -> list[CorpusFile]:
        """Return the files of one role."""
        return [file for file in self.files if file.role == role]

    @property
    def are_texts(self) -> bool:
        """Whether most of what is there is one document a file."""
        sizes = Counter[bool]()
        for file in self.files:
            sizes[file.kind == "text"] += file.size_bytes
        return sizes[True] > sizes[False]


def corpus_files(paths: Sequence[Path]) -> CorpusFiles:
    """Return the files under ``paths``, each once, in sorted order.

    Where the names of some say that they are for validation or for test, these have that role.

    Raises:
        ShardError: a path does not exist, or nothing under them is read.

    """
    found: dict[tuple[int, int], CorpusFile] = {}
    unread = Counter[str]()
    for path in paths:
        if not path.exists():
            raise ShardError(f"There is no file or folder '{path}'. Correct --from.")
        for file in _under(path, unread):
            status = file.path.stat()
            found.setdefault((status.st_dev, status.st_ino), file)
    if not found:
        told = f" ({_in_words(unread)})" if unread else ""
        raise ShardError(
            f"Nothing under {', '.join(map(str, paths))} can be read{told}. Expected JSON lines, "
            f"Parquet, CSV, TSV or text files; extract the text of others first."
        )
    files = sorted(found.values(), key=lambda file: file.path)
    if all(file.role != "train" for file in files):
        files = [dataclasses.replace(file, role="train") for file in files]
    doubts = [f"Files of other kinds are not read: {_in_words(unread)}."] if unread else []
    return CorpusFiles(tuple(files), tuple(doubts))


def _under(path: Path, unread: Counter[str]) -> Iterator[CorpusFile]:
    root = path if path.is_dir() else None
    for file in folder_files(path) if root else [path]:
        kind = file_kind(file, is_in_folder=root is not None, text_suffixes=())
        if kind is None:
            unread[plain_suffix(file) or "no suffix"] += 1
            continue
        top, inside = root, file.relative_to(root).parts if root else (file.name,)
        # A folder that is named itself may be called test-data, and hold all there is.
        own = [path.name] if root and _words(path.name) <= _ROLE_WORDS else []
        named = [*own, *(inside[:-1] if kind == "text" else inside)]
        # A folder named so may hold folders of domains, or be a domain whose texts lie in it.
        is_role = len(inside) > (2 if kind == "text" else 1) and _words(inside[0]) & _ROLE_WORDS
        if root and is_role:
            top, inside = root / inside[0], inside[1:]
        elif kind == "text":
            named = own
        role = _role(named)
        folder = inside[0] if len(inside) > 1 else ""
        yield CorpusFile(file, kind, file.stat().st_size, role, top, folder)


def _role(parts: Sequence[str]) -> Role:
    """Return the role that the last telling name of a path gives."""
    for part in reversed(parts):
        words = _words(part)
        if words & _TRAIN:
            return "train"
        for word, role in _WORDS.items():
            if word in words:
                return role
    return "train"


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _in_words(unread: Counter[str]) -> str:
    shown = [f"{count} {suffix}" for suffix, count in unread.most_common(_NUM_SUFFIXES)]
    return ", ".join(shown) + ", ..." * (len(unread) > _NUM_SUFFIXES)
