"""Where the stages of a run are made, as far as a plan depends on it.

The settings are those of `compute.yaml`, which `mdel_assets.defs.placements` reads.
"""

import dataclasses
from collections.abc import Mapping

from mdel_assets.engines.division import Division, shares_of
from mdel_assets.line.kind import Kind

# Engines whose artifacts are made by jobs, on other machines.
_QUEUES = {"slurm": "SLURM", "ray": "Ray"}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the artifacts of a kind are made.

    ``num_processes`` train one model together; ``models_at_once`` are trained side by side, if that
    is set. Of jobs, ``resources`` are the words for what each has, and ``max_at_once`` is how many
    run at the same time at most.
    """

    engine: str = "local"
    num_processes: int = 1
    models_at_once: int | None = None
    resources: str = ""
    has_gpu: bool = False
    division: Division = dataclasses.field(default_factory=Division)
    max_at_once: int | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether jobs make the artifacts, so that this machine's memory does not matter."""
        return self.engine in _QUEUES

    def num_jobs(self, kind: Kind, num_to_make: int) -> int:
        """Return how many jobs make so many artifacts."""
        return len(shares_of(kind, list(map(str, range(num_to_make))), self.division))

    def rounds(self, num_jobs: int, *, at_once: int | None = None) -> int:
        """Return how many jobs run one after another, if ``at_once`` can run at the same time."""
        limits = [limit for limit in (num_jobs, at_once, self.max_at_once) if limit]
        return -(-num_jobs // min(limits)) if limits else 0

    def in_words(self, kind: Kind, num_to_make: int) -> str:
        """Return the jobs in words; nothing where none is made elsewhere."""
        if not self.is_elsewhere or not num_to_make:
            return ""
        count = self.num_jobs(kind, num_to_make)
        told = f"{count} {_QUEUES[self.engine]} job{'s' * (count != 1)}"
        if self.max_at_once and self.max_at_once < count:
            told += f", {self.max_at_once} at a time"
        if self.num_processes > 1:
            told += f", of {self.num_processes} processes"
        return f"{told} ({self.resources})" if self.resources else told


Placements = Mapping[str, Placement]
HERE = Placement()


def placement_of(kind: Kind, placements: Placements) -> Placement:
    """Return where artifacts of a kind are made; settings hold for its replicates, too."""
    return placements.get(kind.replicate_of or kind.name, HERE)
