"""Forgetting what an object store holds: it is listed with what is here, and removed with it."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdel_assets.data.shard_counts import domains_of
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.recorded_artifacts import Recorded, named_by, unknown_artifact
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.remote.object_store import RemotePlace
from mdel_assets.store.remote.unreferenced import remove_files, superseded, unreferenced_files

_ROUTED = "shard_documents"


def recorded_in_store(lineage: Lineage) -> Iterator[Recorded]:
    """Yield the newest version of each of the experiment's artifacts that the store alone has."""
    store = lineage.remote
    if store is None:
        return
    store.look_again()
    for place in sorted(store.places(lineage.experiment.name)):
        path = lineage.root.parent / place
        if path.exists():
            continue
        remote = RemotePlace(store, place)
        record = remote.newest()
        assert record
        artifact = named_by(record, unknown_artifact(path, within=lineage), within=lineage)
        yield Recorded(dataclasses.replace(artifact, remote=remote), record)


def shards_in_store(lineage: Lineage, domain: str) -> list[str]:
    """Return the shards whose documents the store alone has, some of ``domain`` among them."""
    return [
        entry.record.key
        for entry in recorded_in_store(lineage)
        if entry.record.kind == _ROUTED and domain in domains_of(entry.record.counts)
    ]


def remove_from_store(lineage: Lineage, artifacts: Iterable[Artifact]) -> int:
    """Remove every version of ``artifacts`` from the store, and the bytes of their files.

    With them go the documents of all shards, which hold every domain's, and all older versions of
    the experiment's artifacts: what these were made from is not looked at. Return how many versions
    that were.
    """
    store = lineage.remote
    if store is None:
        return 0
    store.look_again()
    experiment = lineage.experiment.name
    wanted = {place_of(lineage, artifact.record_path) for artifact in artifacts}
    for place in store.places(experiment):
        record = RemotePlace(store, place).newest()
        if record and record.kind == _ROUTED:
            wanted.add(place)
    gone = {(v.place, v.fingerprint) for v in superseded(store, experiment)}
    gone |= {(place, fingerprint) for place in wanted for fingerprint in store.versions(place)}
    for place, fingerprint in sorted(gone):
        store.remove(place, [fingerprint])
    remove_files(store, unreferenced_files(store, min_seconds=0.0))
    return len(gone)


def place_of(lineage: Lineage, record_path: Path) -> str:
    """Return an artifact's place in the store, by the path of its record here."""
    return str(record_path.relative_to(lineage.root.parent))
