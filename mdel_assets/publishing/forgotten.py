"""What was marked as forgotten, and so is not published any more, nor anything made of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mdel_assets.errors import PublishingError
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.recorded_artifacts import Recorded, record_paths, recorded_at
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record


def refuse_forgotten(lineage: Lineage, artifact: Artifact) -> None:
    """Raise `PublishingError` where ``artifact``, or what it was made from, is marked."""
    record, marked = artifact.read_record(), read_forgotten(lineage)
    if record is None or not marked:
        return
    found = [recorded_at(path, within=lineage) for path in record_paths(lineage.root)]
    if told := marked_in(record, found, marked):
        raise PublishingError(
            f"{artifact.label} is marked as forgotten ({told}): make it anew without that domain, "
            f"or take its line out of {lineage.forgotten}."
        )


def marked_in(record: Record, found: Sequence[Recorded], marked: Mapping[str, str]) -> str | None:
    """Return what ``marked`` says of an artifact, or of anything that it was made from.

    ``marked`` is keyed by fingerprints.
    """
    by_fingerprint = {entry.record.fingerprint: entry.record for entry in found}
    seen: set[str] = set()
    left = [record.fingerprint, *record.inputs.values()]
    # Nearest first: the list grows while it is walked.
    for fingerprint in left:
        if fingerprint in marked:
            return marked[fingerprint]
        if fingerprint in by_fingerprint and fingerprint not in seen:
            left += by_fingerprint[fingerprint].inputs.values()
        seen.add(fingerprint)
    return None


def read_forgotten(lineage: Lineage) -> Mapping[str, Any]:
    """Return what was marked, by fingerprints."""
    try:
        content: Mapping[str, Any] = json.loads(lineage.forgotten.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return content
