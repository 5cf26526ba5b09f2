"""An object store of artifacts, as one home sees it: which there are, pushing and fetching them.

What is there is known by one listing of an experiment's entries, which is kept for some seconds.
An entry that was read is kept in the home's cache. It is read again where the listing shows that
another was written under its name: an artifact that was removed and made again has the same
fingerprint, and may have other bytes.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from mdel_assets.errors import DamagedArtifactError
from mdel_assets.store.digests import text_digest
from mdel_assets.store.durable_files import write_text_atomically
from mdel_assets.store.records import Record
from mdel_assets.store.remote.client import Client, Listed
from mdel_assets.store.remote.entries import EXPERIMENTS, Entry, entry_name, parsed_name
from mdel_assets.store.remote.transfers import Files, fetch_files, push_files

# How long a listing is believed. Whoever makes something looks again before.
_BELIEVED_SECONDS = 30.0
_ENTRIES_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Found:
    """An entry of a store, and when it was written."""

    entry: Entry
    changed: datetime


# By place and fingerprint.
_Index = dict[str, dict[str, Found]]


class ObjectStore:
    """The artifacts in a store, for the home with the folder ``cache``."""

    def __init__(self, address: str, cache: Path) -> None:
        self.client = Client(address)
        self._home_cache = cache
        self._cache = cache / f"store-{text_digest(address)[:8]}"
        # When each experiment was listed, and what was there.
        self._listed: dict[str, tuple[float, _Index]] = {}

    def __reduce__(self) -> Any:
        return object_store, (self.address, self._home_cache)

    @property
    def address(self) -> str:
        """Where it is."""
        return self.client.address

    def look_again(self) -> None:
        """Let the next look list the store anew."""
        self._listed.clear()

    def versions(self, place: str) -> dict[str, Found]:
        """Return the entries of a place, by fingerprint, the newest last."""
        found = self._index(_experiment(place)).get(place, {})
        return dict(sorted(found.items(), key=lambda item: (item[1].changed, item[0])))

    def places(self, experiment: str) -> Iterator[str]:
        """Yield the places of an experiment that have an entry."""
        yield from self._index(experiment)

    def push(self, place: str, entry: Entry, folder: Path) -> Record:
        """Send an artifact's files, then its entry; return the record that the store has now.

        That is another's where another writer was first.
        """
        record = entry.record
        push_files(self.client, folder, record.files)
        name = entry_name(place, record.fingerprint)
        if not self.client.create(name, entry.content()):
            content = self.client.read(name)
            if content is None:
                # Whoever was first has taken it away meanwhile.
                return self.push(place, entry, folder)
            entry = Entry.parse(content)
        # Entries that others wrote since the listing are not wanted for this one.
        _, index = self._listed.get(_experiment(place), (0.0, {}))
        now = datetime.now().astimezone()
        index.setdefault(place, {})[record.fingerprint] = Found(entry, now)
        return entry.record

    def fetch(self, files: Files, folder: Path, *, at_hand: Mapping[str, Path]) -> None:
        """Bring files into ``folder``; raises as `fetch_files`."""
        fetch_files(self.client, files, folder, partial=self._cache / "partial", at_hand=at_hand)

    def remove(self, place: str, fingerprints: Iterable[str]) -> None:
        """Remove entries: the artifacts exist no more; files stay (`unreferenced.py`)."""
        names = {fingerprint: entry_name(place, fingerprint) for fingerprint in fingerprints}
        if not names:
            return
        self.client.delete(list(names.values()))
        _, index = self._listed.get(_experiment(place), (0.0, {}))
        for fingerprint, name in names.items():
            index.get(place, {}).pop(fingerprint, None)
            (self._cache / name).unlink(missing_ok=True)

    def _index(self, experiment: str) -> _Index:
        listed_at, index = self._listed.get(experiment, (float("-inf"), {}))
        if time.monotonic() - listed_at > _BELIEVED_SECONDS:
            index = self.read_entries(f"{EXPERIMENTS}/{experiment}")
            self._listed[experiment] = time.monotonic(), index
        return index

    def read_entries(self, prefix: str) -> _Index:
        """Return all entries under a prefix, by place and fingerprint, as they are now.

        Raises:
            DamagedArtifactError: an object with an entry's name holds none.

        """
        listed = {one.name: one for one in self.client.list(prefix) if parsed_name(one.name)}
        with ThreadPoolExecutor(_ENTRIES_AT_ONCE) as threads:
            entries = dict(zip(listed, threads.map(self._entry, listed.values()), strict=True))
        index: _Index = {}
        for name, entry in entries.items():
            place, fingerprint = parsed_name(name) or ("", "")
            # One that was taken away since the listing is None.
            if entry is not None:
                index.setdefault(place, {})[fingerprint] = Found(entry, listed[name].changed)
        return index

    def _entry(self, listed: Listed) -> Entry | None:
        name = listed.name
        # The version, and on the next line the entry.
        with contextlib.suppress(FileNotFoundError, ValueError):
            version, _, kept = (self._cache / name).read_text("utf-8").partition("\n")
            if version == listed.version:
                return Entry.parse(kept.encode())
        content = self.client.read(name)
        if content is None:
            return None
        try:
            entry = Entry.parse(content)
        except ValueError as error:
            raise DamagedArtifactError(
                f"{self.address}/{name} is no entry of an artifact ({error}). Delete that object; "
                f"the artifact is made anew."
            ) from error
        text = f"{listed.version}\n{content.decode()}"
        write_text_atomically(self._cache / name, text, is_kept=False)
        return entry


@dataclasses.dataclass(frozen=True)
class RemotePlace:
    """The place of one artifact in a store."""

    store: ObjectStore
    place: str

    def versions(self) -> set[str]:
        """Return the fingerprints of all versions."""
        return set(self.store.versions(self.place))

    def newest(self) -> Record | None:
        """Return the record that was written last, if there is any."""
        found = list(self.store.versions(self.place).values())
        return found[-1].entry.record if found else None

    def newest_at(self) -> datetime | None:
        """Return when that was."""
        found = list(self.store.versions(self.place).values())
        return found[-1].changed if found else None

    def find(self, fingerprint: str) -> Entry | None:
        """Return the entry of an artifact with this fingerprint, if there is one."""
        found = self.store.versions(self.place).get(fingerprint)
        return found.entry if found else None

    def push(self, record: Record, making: Mapping[str, Any] | None, folder: Path) -> Record:
        """Send an artifact; returns as `ObjectStore.push`."""
        return self.store.push(self.place, Entry(record, making), folder)

    def fetch(self, record: Record, folder: Path, *, at_hand: Mapping[str, Path]) -> None:
        """Bring an artifact's files into ``folder``.

        Raises:
            DamagedArtifactError: the store does not hold them. The artifact exists there no more:
                its entry is removed, unless the artifact was made anew since the last look.

        """
        try:
            self.store.fetch(record.files, folder, at_hand=at_hand)
        except DamagedArtifactError as error:
            self.store.look_again()
            entry = self.find(record.fingerprint)
            if entry and entry.record != record:
                raise DamagedArtifactError(
                    f"{error} {record.kind} '{record.key}' was made anew meanwhile: run the same "
                    f"command again, which fetches that."
                ) from error
            self.store.remove(self.place, [record.fingerprint])
            raise DamagedArtifactError(
                f"{error} {record.kind} '{record.key}' is taken out of the store: run the same "
                f"command again, which makes it anew."
            ) from error

    def remove(self, fingerprint: str | None = None) -> None:
        """Remove the version with this fingerprint, or all."""
        gone = [fingerprint] if fingerprint else list(self.store.versions(self.place))
        self.store.remove(self.place, gone)


def _experiment(place: str) -> str:
    return place.split("/", 1)[0]


@functools.cache
def _opened(address: str, cache: Path, process: int) -> ObjectStore:
    return ObjectStore(address, cache)


def object_store(address: str, cache: Path) -> ObjectStore:
    """Return the store at an address, one for each process."""
    return _opened(address, cache, os.getpid())
