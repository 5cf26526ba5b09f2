"""Why an artifact would be made anew."""

import dataclasses
from typing import Any

from mdel_assets.errors import DamagedArtifactError, MissingArtifactError
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Identity


@dataclasses.dataclass(frozen=True)
class Stale:
    """An artifact that a run would make anew, and why."""

    kind: str
    key: str
    reason: str


def reason_to_remake(artifact: Artifact, expected: Identity | None) -> str:
    """Return how an artifact differs from what it should be; None stands for a source elsewhere."""
    try:
        record = artifact.look()
    except MissingArtifactError:
        return "never made"
    except DamagedArtifactError as error:
        return str(error)
    if expected is None:
        return "its source changed"
    if record.code_version != expected.code_version:
        return f"made by code version {record.code_version}, now {expected.code_version}"
    changed = [
        *(f"config {key}" for key in _differences(record.config, expected.config)),
        *_differences(record.inputs, expected.inputs),
    ]
    return "changed: " + ", ".join(changed)


def _differences(old: Any, new: Any) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
