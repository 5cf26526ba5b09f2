"""Artifacts that a run of the pipeline did not make, and artifacts that therefore wait."""

from collections.abc import Iterable, Sequence

from mdel_assets.errors import ArtifactError, MdelError
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.looking_once import looking_once

_NUM_NAMED = 3


class NotMade:
    """The artifacts that were to be made in this run and were not."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self._labels: dict[str, None] = {}

    def add(self, kind: str, keys: Iterable[str]) -> None:
        """Remember artifacts that failed or were skipped."""
        for key in keys:
            self._labels[self.lineage.artifact(kind, key).label] = None

    def awaited_by(self, kind: str, key: str) -> tuple[str, ...]:
        """Return which of them an artifact is made from, by the labels that messages use."""
        if not self._labels:
            return ()
        try:
            inputs = self.lineage.inputs(kind, key)
        except MdelError:
            # Its own run says what is wrong.
            return ()
        is_needed = not self.lineage.registry[kind].takes_what_is_there
        return tuple(
            artifact.label
            for artifact in inputs
            if artifact.label in self._labels and (is_needed or artifact.read_record() is None)
        )

    def in_words(self) -> str:
        """Return all of them, or the first and how many more."""
        return in_words(list(self._labels))


def in_words(labels: Sequence[str]) -> str:
    """Return labels as a sentence has them: the first ones, and how many more."""
    named = ", ".join(labels[:_NUM_NAMED])
    more = len(labels) - _NUM_NAMED
    return f"{named} and {more} more" if more > 0 else named


@looking_once()
def reasons_not_made(lineage: Lineage, kind: str, keys: Iterable[str]) -> dict[str, str]:
    """Return the ``keys`` that are not what they should be after their run, each with the reason.

    Partitions that the corpus has nothing for are what they should be. So is what the line does
    not make, and a shard, which was verified when it was fetched.
    """
    if kind not in lineage.kinds() or lineage.registry[kind].current is not None:
        return {}
    try:
        present = set(lineage.keys(kind))
    except ArtifactError:
        # Which keys there are is not known yet: those that were asked for count.
        present = set(keys := list(keys))
    stale = {key: lineage.stale(kind, key) for key in keys if key in present}
    return {key: found.reason for key, found in stale.items() if found}
