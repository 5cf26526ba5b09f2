"""A home under a size limit: what was used longest ago goes, if the store holds it whole.

``MDEL_CACHE_BYTES`` is the limit of an experiment's artifacts in a home. What is in use, is being
made, or is not in the store stays, even if that is more.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from mdel_assets.errors import ArtifactError, ExperimentError
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.recorded_artifacts import Recorded, record_paths, recorded_at
from mdel_assets.store.digests import file_number
from mdel_assets.store.in_use import last_use, unused

_log = logging.getLogger(__name__)
VARIABLE = "MDEL_CACHE_BYTES"


@dataclasses.dataclass(frozen=True)
class _Kept:
    """An artifact in the home, when it was used, and its files' sizes by their numbers."""

    found: Recorded
    used_at: float
    sizes: Mapping[tuple[int, int], int]


def keep_within_limit(lineage: Lineage, environment: Mapping[str, str] = os.environ) -> None:
    """Remove artifacts from the home until they take no more than the limit, if there is one.

    Raises:
        ExperimentError: the limit is no number.

    """
    limit = _limit(environment)
    if limit is None or lineage.remote is None:
        return
    kept = sorted(_kept(lineage), key=lambda entry: entry.used_at)
    # Two artifacts may share a file: it takes room until both are gone.
    owners: dict[tuple[int, int], int] = {}
    for entry in kept:
        for number in entry.sizes:
            owners[number] = owners.get(number, 0) + 1
    size = sum({n: size for entry in kept for n, size in entry.sizes.items()}.values())
    for entry in kept:
        if size <= limit:
            return
        if not _removed(lineage, entry.found):
            continue
        for number, size_bytes in entry.sizes.items():
            owners[number] -= 1
            size -= 0 if owners[number] else size_bytes


def _limit(environment: Mapping[str, str]) -> int | None:
    written = environment.get(VARIABLE)
    if not written:
        return None
    if not written.isdecimal():
        raise ExperimentError(
            f"{VARIABLE} is '{written}', expected a number of bytes, such as 200000000000."
        )
    return int(written)


def _kept(lineage: Lineage) -> list[_Kept]:
    entries = []
    for path in record_paths(lineage.root):
        try:
            found = recorded_at(path, within=lineage)
            files = [found.artifact.folder / name for name in found.record.files]
            sizes = {file_number(file): file.stat().st_size for file in files}
        except (ArtifactError, OSError):
            # Just removed, or damaged: that is the doctor's.
            continue
        used_at = max(last_use(found.artifact.use_path), path.stat().st_mtime)
        entries.append(_Kept(found, used_at, sizes))
    return entries


def _removed(lineage: Lineage, found: Recorded) -> bool:
    """Remove an artifact from the home, if that loses nothing and disturbs nobody."""
    assert lineage.remote
    artifact, record = found.artifact, found.record
    place = str(artifact.record_path.relative_to(lineage.root.parent))
    held = lineage.remote.versions(place).get(record.fingerprint)
    if held is None or held.entry.record != record:
        return False
    with unused(artifact.use_path) as is_unused, unused(artifact.lock_path) as is_idle:
        if not (is_unused and is_idle and _is_as_recorded(artifact.record_path, record.text())):
            return False
        artifact.remove()
    _log.info("%s is in %s; it is removed here", artifact.label, lineage.remote.address)
    return True


def _is_as_recorded(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except FileNotFoundError:
        return False
