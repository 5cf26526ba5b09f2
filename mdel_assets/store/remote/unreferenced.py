"""What a store holds for nothing: files of no entry, and versions that a newer one has replaced.

A push that was killed leaves files without an entry, and so does whoever removes entries. A file
that is younger than a day may belong to a push that is under way.
"""

import time
from collections.abc import Collection
from typing import NamedTuple

from mdel_assets.store.remote.client import Listed
from mdel_assets.store.remote.entries import EXPERIMENTS, FILES, file_name
from mdel_assets.store.remote.object_store import ObjectStore

YOUNG_SECONDS = 24 * 3600.0


class Version(NamedTuple):
    """An artifact in a store, by place and fingerprint, and its size by its record."""

    place: str
    fingerprint: str
    size_bytes: int


def unreferenced_files(
    store: ObjectStore, *, min_seconds: float = YOUNG_SECONDS, whatever_age: Collection[str] = ()
) -> list[Listed]:
    """Return the files that no entry of any experiment names, if they are old enough.

    Names of ``whatever_age`` are of files that are not spared for being young.
    """
    # Entries are read after files are listed: of a file that is listed, the entry may come later.
    listed = store.client.list(FILES)
    named = {
        file_name(file["xxh3"])
        for versions in store.read_entries(EXPERIMENTS).values()
        for found in versions.values()
        for file in found.entry.record.files.values()
    }
    now = time.time()
    return [
        file
        for file in listed
        if file.name not in named
        and (file.name in whatever_age or now - file.changed.timestamp() >= min_seconds)
    ]


def superseded(store: ObjectStore, experiment: str) -> list[Version]:
    """Return all versions of an experiment's artifacts but the newest of each place."""
    found = []
    for place in list(store.places(experiment)):
        *older, _ = store.versions(place).items()
        for fingerprint, version in older:
            sizes = [file["size_bytes"] for file in version.entry.record.files.values()]
            found.append(Version(place, fingerprint, sum(sizes)))
    return found


def remove_files(store: ObjectStore, files: Collection[Listed]) -> None:
    """Remove files from a store."""
    store.client.delete([file.name for file in files])
