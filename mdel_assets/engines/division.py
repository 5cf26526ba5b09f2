"""How the artifacts that a run makes are divided among jobs."""

import dataclasses
import json
from collections.abc import Sequence

from mdel_assets.experiment.section import PositiveInt, Section
from mdel_assets.line.kind import Kind
from mdel_assets.store.digests import text_digest


class Division(Section):
    """How a work that can be divided is: into packs of models, and each pack's documents in parts.

    Models of a pack run the layers that they share once.
    """

    parts: PositiveInt = 1
    models_per_job: PositiveInt = 8


@dataclasses.dataclass(frozen=True)
class Share:
    """What one job makes: artifacts by their keys, or a part (number, count) of their work."""

    name: str
    keys: tuple[str, ...]
    part: tuple[int, int] | None = None

    @property
    def folder_name(self) -> str:
        """The name of its job's folder, by what it makes: the same in whichever run makes that."""
        if len(self.keys) == 1 and self.part is None:
            return self.keys[0]
        return f"{self.keys[0]}-{text_digest(json.dumps([self.keys, self.part]))}"


def shares_of(kind: Kind, keys: Sequence[str], division: Division) -> list[Share]:
    """Return the jobs that make ``keys``.

    Each key is a job, except where making several together saves work: then all are one, or, where
    the work has parts, each part of a pack is one.
    """
    if kind.parts:
        size = division.models_per_job
        packs = [tuple(keys[first : first + size]) for first in range(0, len(keys), size)]
        count = division.parts
        dealt = [(pack, number) for pack in packs for number in range(count)]
        return [
            Share(f"{place + 1} of {len(dealt)}", pack, (number, count) if count > 1 else None)
            for place, (pack, number) in enumerate(dealt)
        ]
    if kind.write_together and len(keys) > 1:
        return [Share(f"all {len(keys)}", tuple(keys))]
    return [Share(key, (key,)) for key in keys]
