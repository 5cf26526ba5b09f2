"""The locations of the corpus's shards: expand patterns, name shards, find repeated locations."""

import fnmatch
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import xxhash

from mdel_assets.errors import ExperimentError
from mdel_assets.store.file_names import require_writable_name

_SUFFIX = re.compile(r"(\.(jsonl|json|ndjson|csv|tsv|parquet|zst|gz|bz2|xz))+$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
# What is looked at within a second or two.
_MAX_LOOKED_AT = 200_000
# Each shard is a partition, with records and folders of its own.
MAX_SHARDS = 100_000


def write_out(pattern: str, *, folder: str | None = None) -> list[str]:
    """Expand ``{00..29}`` and ``{a,b}``, then local globs in sorted order.

    Relative paths start at ``folder``, or at the working folder if it is None.

    Raises:
        ExperimentError: a glob matches nothing or is remote, or there are too many shards.

    """
    count = math.prod(map(_num_choices, _BRACES.findall(pattern)))
    if count > MAX_SHARDS:
        raise ExperimentError(
            f"source.train: '{pattern}' stands for {count} shards, but an experiment can have at "
            f"most {MAX_SHARDS}. Correct the range, or join files into fewer shards."
        )
    if count == 0:
        raise ExperimentError(f"source.train: '{pattern}' has a range that runs backwards.")
    return [place for one in _without_braces(pattern) for place in _glob(one, folder)]


def _num_choices(inside: str) -> int:
    if numbers := _RANGE.fullmatch(inside):
        return max(0, int(numbers[2]) - int(numbers[1]) + 1)
    return inside.count(",") + 1


def _without_braces(pattern: str) -> list[str]:
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [place for one in _choices(match[1]) for place in _without_braces(before + one + after)]


def _choices(inside: str) -> list[str]:
    if numbers := _RANGE.fullmatch(inside):
        first, last = numbers.groups()
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return inside.split(",")


def _glob(pattern: str, folder: str | None) -> list[str]:
    if "://" in pattern:
        if any(sign in pattern for sign in "*["):
            raise ExperimentError(
                f"'{pattern}' is a glob for a remote location, which cannot be expanded; list the "
                f"shards one by one, or as {{00..29}} or {{a,b}}."
            )
        return [pattern]
    require_writable_name(pattern, what="source.train:")
    is_relative = not Path(pattern).is_absolute() and not pattern.startswith("~")
    root = Path(folder) if folder and is_relative else Path(Path(pattern).anchor)
    if not any(sign in pattern for sign in "*?["):
        return [str(root / pattern)] if folder and is_relative else [pattern]
    inside = pattern if is_relative else str(Path(pattern).relative_to(root))
    matches = sorted({str(path) for path in _Walk(pattern).matches(root, Path(inside).parts)})
    if not matches:
        raise ExperimentError(f"source.train: '{pattern}' matches no file.")
    return matches


class _Walk:
    """A look through folders for what a glob matches; one that goes on without end is refused."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._num_seen = 0

    def matches(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """Yield what is under ``folder`` by the parts of a pattern, also more than once.

        As `Path.glob` does, it follows no links where a part is ``**``.
        """
        if not parts:
            yield folder
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self.matches(folder, rest)
            for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    yield from self.matches(folder / entry.name, parts)
        elif any(sign in part for sign in "*?["):
            for entry in self._entries(folder):
                if fnmatch.fnmatchcase(entry.name, part) and (not rest or entry.is_dir()):
                    yield from self.matches(folder / entry.name, rest)
        elif (place := folder / part).exists():
            yield from self.matches(place, rest)

    def _entries(self, folder: Path) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(folder) as found:
                entries = list(itertools.islice(found, _MAX_LOOKED_AT))
        except OSError:
            # No folder, or one that is another's.
            return []
        self._num_seen += 1 + len(entries)
        if self._num_seen > _MAX_LOOKED_AT:
            raise ExperimentError(
                f"source.train: '{self._pattern}' leads through more than {_MAX_LOOKED_AT:,} files "
                f"and folders. Begin it with the corpus's own folder, or list the shards."
            )
        return entries


def require_web_address(location: str) -> None:
    """Refuse an address that is none of the web.

    Raises:
        ExperimentError: it is of another kind, or names no host.

    """
    kind = location.partition("://")[0]
    if kind not in ("http", "https"):
        raise ExperimentError(
            f"'{location}' begins with {kind}://, which is not read: expected a path, https://, "
            f"hf:// or sample://. Fetch it first, and give its path"
        )
    try:
        host = urlsplit(location).hostname
    except ValueError:
        host = None
    if not host:
        raise ExperimentError(f"'{location}' names no host: expected https://HOST/PATH")


def shard_key(location: str) -> str:
    """Return a shard's partition key: its file name without extensions, as a slug."""
    return _slug(_SUFFIX.sub("", _parts(location)[-1])) or "shard"


def shard_keys(locations: Sequence[str], *, taken: Collection[str]) -> list[str]:
    """Return a key for each location: `shard_key`, or a longer one if several locations share it.

    A longer key distinguishes names with equal slugs (non-ASCII letters become a digest), and
    contains as many folders as necessary. Equal locations have equal keys.
    """
    keys = [shard_key(location) for location in locations]
    most = max((len(_parts(location)) for location in locations), default=0)
    for num_parts in range(1, most + 1):
        counts = Counter([*keys, *taken])
        clashing = [number for number, key in enumerate(keys) if counts[key] > 1]
        if not clashing:
            break
        for number in clashing:
            keys[number] = _longer_key(locations[number], num_parts)
    return keys


def _longer_key(location: str, num_parts: int) -> str:
    *folders, name = _parts(location)[-num_parts:]
    return "_".join(map(_telling_slug, [*folders, _SUFFIX.sub("", name)]))


def _telling_slug(name: str) -> str:
    slug = _slug(name)
    return slug if name.isascii() else f"{slug}_{xxhash.xxh32_hexdigest(name.encode())}".lstrip("_")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")


def _parts(location: str) -> list[str]:
    return [part for part in location.split("/") if part] or [location]


def repeated_locations(roles: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a sentence for each file or folder that is given more than once.

    ``roles`` are locations by role. Links and other spellings of one local path are the same file.
    If a file has two roles, all its documents are duplicates, and the weaker role is left empty.
    """
    given: dict[str, list[tuple[str, str]]] = {}
    for role, locations in roles.items():
        for location in locations:
            given.setdefault(_identity(location), []).append((role, location))
    return [_repeat_in_words(uses) for uses in given.values() if len(uses) > 1]


def _identity(location: str) -> str:
    if "://" in location:
        return location
    path = Path(location).expanduser()
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    except ValueError:
        # No file can have such a name.
        return location
    return f"inode {status.st_dev} {status.st_ino}"


def _repeat_in_words(uses: Sequence[tuple[str, str]]) -> str:
    (first, place), (second, other) = uses[:2]
    also = "" if place == other else f", which is the same as '{other}'"
    if first == second:
        return f"source.{first} names '{place}' more than once{also}: remove the repetition"
    return (
        f"source.{first} and source.{second} are both '{place}'{also}: every document of "
        f"source.{first} would be removed as a duplicate. Name another file, or leave out "
        f"source.{second}, so that documents are held out"
    )
