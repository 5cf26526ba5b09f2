"""Artifacts by their records on disk: also those that the experiment no longer names."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdel_assets.line.kind import Kind
from mdel_assets.line.presence import Presence
from mdel_assets.store.artifacts import RECORD_NAME, Artifact
from mdel_assets.store.records import Record


@dataclasses.dataclass(frozen=True)
class Recorded:
    """An artifact that was made, and its record."""

    artifact: Artifact
    record: Record

    @property
    def identity(self) -> tuple[str, str]:
        """What the records of others call it among their inputs: its label and its fingerprint."""
        return self.artifact.label, self.record.fingerprint

    @property
    def size_bytes(self) -> int:
        """The size of its files, by the record."""
        return sum(file["size_bytes"] for file in self.record.files.values())

    @property
    def is_displaced(self) -> bool:
        """Whether its place here has another version: this one is in the store."""
        here = self.artifact.last_record()
        return here is not None and here.fingerprint != self.record.fingerprint

    def remove(self) -> None:
        """Remove it, where it is here; another version in its place stays."""
        if not self.is_displaced:
            self.artifact.remove()


def record_paths(root: Path, *, work: str = "work") -> Iterator[Path]:
    """Yield the records under an experiment's folder, sorted; not those in its folder ``work``."""
    for path in sorted(root.rglob(f"*{RECORD_NAME}")):
        inside = path.relative_to(root).parts
        if inside[0] != work and not any(part.startswith(".") for part in inside[:-1]):
            yield path


def recorded_at(path: Path, *, within: Presence | None = None) -> Recorded:
    """Return the artifact that a record is of, of the line that it lies ``within``.

    Raises:
        DamagedArtifactError: the file is not a record.

    """
    unknown = unknown_artifact(path, within=within)
    record = unknown.read_record()
    assert record is not None
    return Recorded(named_by(record, unknown, within=within), record)


def unknown_artifact(path: Path, *, within: Presence | None = None) -> Artifact:
    """Return the artifact whose record lies at ``path``, before that is read.

    Its folder is its own where the place is of no kind that says otherwise.
    """
    if within and (placed := placed_at(path, root=within.root, kinds=within.registry.values())):
        return placed
    work, is_alone = within.root / "work" if within else None, path.name == RECORD_NAME
    return Artifact("artifact", str(path), "", path.parent, path, "make it anew", work, is_alone)


def placed_at(path: Path, *, root: Path, kinds: Iterable[Kind]) -> Artifact | None:
    """Return the artifact, of one of ``kinds``, whose record has its place at ``path``.

    ``root`` is the folder of its experiment. None where the place is of no kind.
    """
    place = str(path.relative_to(root))
    for kind in kinds:
        pattern = re.escape(kind.record_place).replace(re.escape("{key}"), "(?P<key>[^/]+)")
        if match := re.fullmatch(pattern, place):
            return Artifact(
                kind=kind.name,
                key=match.groupdict().get("key", ""),
                experiment=root.name,
                folder=path.parent,
                record_path=path,
                remedy="make it anew",
                work=root / "work",
                owns_folder=kind.owns_folder,
            )
    return None


def named_by(record: Record, unknown: Artifact, *, within: Presence | None = None) -> Artifact:
    """Return an artifact with the kind and the key that its record has."""
    kind = within.registry.get(record.kind) if within else None
    is_alone = unknown.record_path.name == RECORD_NAME and not (kind and kind.shares_folder)
    return dataclasses.replace(
        unknown,
        kind=record.kind,
        key=record.key,
        experiment=record.experiment,
        owns_folder=is_alone,
    )
