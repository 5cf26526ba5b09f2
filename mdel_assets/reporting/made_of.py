"""What a page is made of: its inputs, what those were made from, and so on to the corpus.

The page takes only the ends of the line as inputs, and finds everything before them by the
fingerprints in their records. So it shows what its matrix was really made from, and no model's
weights have to be at hand for it.
"""

from collections.abc import Mapping

from mdel_assets.line.kind import Input
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Identity, Record

Records = Mapping[Input, Record]


def records_behind(lineage: Lineage, identity: Identity) -> dict[Input, Record]:
    """Return the records of everything that an artifact with ``identity`` is made from.

    What was made anew since is left out, unless the store still has the version that was read.
    """
    found: dict[Input, Record] = {}
    to_follow: list[tuple[Input, Mapping[str, str]]] = [
        (Input(identity.kind, identity.key), identity.inputs)
    ]
    while to_follow:
        made, fingerprints = to_follow.pop()
        for artifact in lineage.inputs(*made):
            entry = Input(artifact.kind, artifact.key)
            if entry in found or artifact.label not in fingerprints:
                continue
            if record := _version(artifact, fingerprints[artifact.label]):
                found[entry] = record
                to_follow.append((entry, record.inputs))
    return found


def of_kind(lineage: Lineage, records: Records, kind: str) -> dict[str, Record]:
    """Return the records of one kind by key, in the order of the line."""
    return {
        key: records[Input(kind, key)]
        for key in lineage.registry[kind].keys(lineage.experiment)
        if Input(kind, key) in records
    }


def _version(artifact: Artifact, fingerprint: str) -> Record | None:
    record = artifact.read_record()
    if record and record.fingerprint == fingerprint:
        return record
    entry = artifact.remote.find(fingerprint) if artifact.remote else None
    return entry.record if entry else None
