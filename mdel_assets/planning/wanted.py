"""What a run would make, before anything of it is made.

An artifact that is up to date will not be once what it is made from is another. What comes has a
fingerprint beforehand, because its settings and inputs do; only a source that is still to be found
has none.
"""

import dataclasses
from collections.abc import Sequence

from mdel_assets.errors import ArtifactError, MdelError
from mdel_assets.line.kind import Input, Kind
from mdel_assets.store.looking_once import looking_once
from mdel_assets.training.sizes import Sizes


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The artifacts of a kind that a run would make, and how many are up to date."""

    kind: str
    keys: tuple[str, ...]
    num_up_to_date: int


@looking_once()
def wanted_artifacts(sizes: Sizes, *, until: str | None = None) -> list[Wanted]:
    """Return what a run would make, kind by kind; ``until`` is the last kind of the run.

    Before it is known which domains the corpus has, all are taken that the sources promise.
    """
    lineage = sizes.lineage
    kinds = lineage.kinds()
    if until is not None:
        kinds = kinds[: kinds.index(until) + 1]
    coming = _Coming(sizes)
    found = []
    for kind in kinds:
        keys = keys_of(sizes, lineage.registry[kind])
        missing = tuple(key for key in keys if coming.is_wanted(Input(kind, key)))
        if keys:
            found.append(Wanted(kind, missing, len(keys) - len(missing)))
    return found


class _Coming:
    """What a run would make so far, each with the fingerprint that it will have, if it is known."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._lineage = sizes.lineage
        self._fingerprints: dict[Input, str | None] = {}

    def is_wanted(self, entry: Input) -> bool:
        """Whether a run would make an artifact; it is asked in the order of the line."""
        kind = self._lineage.registry[entry.kind]
        new = [i for i in kind.inputs(self._sizes.experiment, entry.key) if i in self._fingerprints]
        record = self._sizes.current(*entry)
        if record and not new:
            return False
        fingerprint = self._fingerprint(kind, entry.key, new)
        if new and fingerprint and self._lineage.artifact(*entry).holds(fingerprint):
            # What was lost is made anew as it was.
            return False
        self._fingerprints[entry] = fingerprint
        return True

    def _fingerprint(self, kind: Kind, key: str, new: Sequence[Input]) -> str | None:
        """Return what an artifact will have, given its ``new`` inputs; None where it is unknown."""
        coming = {self._lineage.artifact(*i).label: self._fingerprints[i] for i in new}
        known = {label: found for label, found in coming.items() if found}
        if kind.current or len(known) < len(coming):
            return None
        try:
            return self._lineage.identity(kind.name, key, coming=known).fingerprint
        except MdelError:
            return None


def keys_of(sizes: Sizes, kind: Kind) -> list[str]:
    """Return the keys of a kind, as far as its domains are known or promised."""
    experiment = sizes.experiment
    try:
        keys = sizes.lineage.keys(kind.name)
    except ArtifactError:
        keys = list(kind.keys(experiment))
    if kind.absent is None or not sizes.domains:
        return keys
    missing = [domain for domain in experiment.domain_keys if domain not in sizes.domains]
    absent = kind.absent(experiment, missing)
    return [key for key in keys if key not in absent]
