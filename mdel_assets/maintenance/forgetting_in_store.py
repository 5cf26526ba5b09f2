"""Forgetting what an object store holds: it is listed with what is here, and removed with it."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdel_assets.data.shard_counts import domains_of
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.recorded_artifacts import Recorded, named_by, unknown_artifact
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.remote.entries import file_name
from mdel_assets.store.remote.object_store import RemotePlace
from mdel_assets.store.remote.unreferenced import remove_files, superseded, unreferenced_files

_ROUTED = "shard_documents"


def recorded_in_store(lineage: Lineage) -> Iterator[Recorded]:
    """Yield the newest version of each of the experiment's artifacts, if it is not here.

    Nothing may be here, or another version (`Recorded.is_displaced`).
    """
    store = lineage.remote
    if store is None:
        return
    store.look_again()
    for place in sorted(store.places(lineage.experiment.name)):
        path = lineage.root.parent / place
        remote = RemotePlace(store, place)
        record = remote.newest()
        assert record
        artifact = named_by(record, unknown_artifact(path, within=lineage), within=lineage)
        found = Recorded(dataclasses.replace(artifact, remote=remote), record)
        if found.is_displaced or not path.exists():
            yield found


@contextlib.contextmanager
def fetched_aside(found: Recorded) -> Iterator[Path]:
    """Give a folder with the files of a version that is not here; it is removed at the end."""
    assert found.artifact.remote
    with found.artifact.staging() as stage:
        found.artifact.remote.fetch(found.record, stage, at_hand={})
        yield stage


def shards_in_store(found: Iterable[Recorded], domain: str) -> list[str]:
    """Return the shards of ``found`` whose documents the store has, some of ``domain`` too."""
    return [
        entry.record.key
        for entry in found
        if entry.artifact.remote
        and entry.record.kind == _ROUTED
        and domain in domains_of(entry.record.counts)
    ]


def remove_from_store(lineage: Lineage, artifacts: Iterable[Artifact]) -> None:
    """Remove every version of ``artifacts`` from the store, and the bytes of their files.

    With them go the documents of all shards, which hold every domain's, and all older versions of
    the experiment's artifacts: what these were made from is not looked at. Other files that nothing
    names stay until they are old: a push that is under way may be theirs.
    """
    store = lineage.remote
    if store is None:
        return
    store.look_again()
    experiment = lineage.experiment.name
    wanted = {place_of(lineage, artifact.record_path) for artifact in artifacts}
    for place in store.places(experiment):
        record = RemotePlace(store, place).newest()
        if record and record.kind == _ROUTED:
            wanted.add(place)
    old = {(version.place, version.fingerprint) for version in superseded(store, experiment)}
    versions = {
        (place, fingerprint): found.entry.record
        for place in store.places(experiment)
        for fingerprint, found in store.versions(place).items()
    }
    gone = [version for version in versions if version[0] in wanted or version in old]
    named = {
        file_name(file["xxh3"]) for version in gone for file in versions[version].files.values()
    }
    for place, fingerprint in sorted(gone):
        store.remove(place, [fingerprint])
    remove_files(store, unreferenced_files(store, whatever_age=named))


def place_of(lineage: Lineage, record_path: Path) -> str:
    """Return an artifact's place in the store, by the path of its record here."""
    return str(record_path.relative_to(lineage.root.parent))
