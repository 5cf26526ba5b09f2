"""Artifacts by their records on disk: also those that the experiment no longer names."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from mdel_assets.artifacts import RECORD_NAME, Artifact, Record


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


def record_paths(root: Path) -> Iterator[Path]:
    """Yield the records under an experiment's folder, sorted; not those of work in progress."""
    for path in sorted(root.rglob(f"*{RECORD_NAME}")):
        inside = path.relative_to(root).parts
        if inside[0] != "work" and not any(part.startswith(".") for part in inside[:-1]):
            yield path


def recorded_at(path: Path, *, work: Path | None = None) -> Recorded:
    """Return the artifact that a record is of; ``work`` is the work folder of its experiment.

    Raises:
        DamagedArtifactError: the file is not a record.

    """
    unknown = Artifact("artifact", str(path), "", path.parent, path, "make it anew", work)
    record = unknown.read_record()
    assert record is not None
    artifact = dataclasses.replace(
        unknown, kind=record.kind, key=record.key, experiment=record.experiment
    )
    return Recorded(artifact, record)
