"""Replicates: everything that is trained, and what is made of it, once per training seed.

An experiment with ``replicates: 3`` has three of them. The first is the line itself. The others are
made by the same code in the same way, from the same datasets, with other training seeds: each kind
with replicates gets a second kind, ``KIND_replicate``, whose keys are those of the first with the
replicate's number: ``github@2``, or only ``2`` where a kind has a single artifact.

`Replicate` is the line as the code that makes and reads artifacts knows it, with the artifacts of
one replicate in their places. So no step knows of replicates.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.price import Price
from mdel_assets.line.staleness import Stale
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Identity

if TYPE_CHECKING:
    from mdel_assets.training.sizes import Sizes

_SIGN = "@"


def with_replicates(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Return the kinds, each that has replicates followed by the kind of these."""
    rows = {kind.name: kind for kind in kinds}
    found = []
    for kind in rows.values():
        found.append(kind)
        if kind.is_trained:
            found.append(_Again(rows, kind).row())
    return tuple(found)


def replicates_of(lineage: Lineage) -> list[Lineage]:
    """Return the line, which is its own first replicate, and the further ones."""
    numbers = _further(lineage.experiment)
    return [lineage, *(Replicate(lineage, number) for number in numbers)]


def replicate_kind(kind: str) -> str:
    """Return the name of the kind of a kind's further replicates."""
    return f"{kind}_replicate"


def replicate_key(key: str, number: int) -> str:
    """Return the key of replicate ``number``, from 2, of what has ``key`` in the line."""
    return f"{key}{_SIGN}{number}" if key else str(number)


def split_key(key: str) -> tuple[str, int]:
    """Return the key in the line, and the replicate's number, of a `replicate_key`."""
    own, _, number = key.rpartition(_SIGN)
    return own, int(number)


def is_replicated(kinds: Mapping[str, Kind], experiment: Experiment, entry: Input) -> bool:
    """Whether an artifact would be another with another training seed."""
    kind = kinds.get(entry.kind)
    if kind is None or kind.is_trained is None:
        return False
    if kind.is_trained(experiment):
        return True
    inputs = kind.inputs(experiment, entry.key)
    return any(is_replicated(kinds, experiment, other) for other in inputs)


def _further(experiment: Experiment) -> range:
    return range(2, experiment.replicates + 1)


class Replicate(Lineage):
    """One further replicate under the names of the line; what is not trained is the line's own."""

    def __init__(self, line: Lineage, number: int) -> None:
        super().__init__(
            line.experiment.replicate(number),
            root=line.root,
            cache=line.cache,
            registry=tuple(line.registry.values()),
            remote=line.remote,
        )
        self.line = line
        self.number = number

    def name(self, kind: str, key: str = "") -> Input:
        """Return the kind and the key that an artifact of the replicate has in the line."""
        if is_replicated(self.registry, self.experiment, Input(kind, key)):
            return Input(replicate_kind(kind), replicate_key(key, self.number))
        return Input(kind, key)

    def artifact(self, kind: str, key: str = "") -> Artifact:
        """Return the place of an artifact."""
        return self.line.artifact(*self.name(kind, key))

    def identity(
        self, kind: str, key: str = "", *, coming: Mapping[str, str] = MappingProxyType({})
    ) -> Identity:
        """Return what the artifact should be; raises as that of the line."""
        return self.line.identity(*self.name(kind, key), coming=coming)

    def to_do(self, kind: str, key: str = "") -> Stale | None:
        """Say what is still to be done for the artifact; as that of the line."""
        return self.line.to_do(*self.name(kind, key))

    def stale(self, kind: str, key: str = "") -> Stale | None:
        """Say why the artifact would be made anew, or None if it is current."""
        return self.line.stale(*self.name(kind, key))


@dataclasses.dataclass(frozen=True, eq=False)
class _Again:
    """What the kind of further replicates of ``kind``, one of ``kinds``, declares.

    Its methods are handed to other processes, as functions inside functions cannot be.
    """

    kinds: Mapping[str, Kind]
    kind: Kind

    def row(self) -> Kind:
        """Return the kind of further replicates."""
        kind = self.kind
        place = f"replicates/{kind.place}"
        return dataclasses.replace(
            kind,
            name=replicate_kind(kind.name),
            place=place if "{key}" in place else f"{place}/{{key}}",
            record="",
            write=None,
            write_together=None,
            keys=self.keys,
            is_in=self.is_in,
            absent=self.absent if kind.absent else None,
            inputs=self.inputs,
            takes=self.takes,
            config=self.config,
            price=self.price if kind.price else None,
            # A job scores one model of a replicate.
            parts=None,
            # Reports of the line are what schedules make.
            is_report=False,
            is_trained=None,
            replicate_of=kind.name,
        )

    def keys(self, experiment: Experiment) -> list[str]:
        return [
            replicate_key(key, number)
            for number in _further(experiment)
            for key in self._own_keys(experiment.replicate(number))
        ]

    def is_in(self, experiment: Experiment) -> bool:
        is_asked = experiment.replicates > 1 and self.kind.is_in(experiment)
        return is_asked and bool(self._own_keys(experiment.replicate(2)))

    def absent(self, experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
        assert self.kind.absent
        return {
            replicate_key(key, number): reason
            for number in _further(experiment)
            for key, reason in self.kind.absent(experiment.replicate(number), domains).items()
        }

    def inputs(self, experiment: Experiment, key: str) -> list[Input]:
        own, number = split_key(key)
        inside = experiment.replicate(number)
        return [
            Input(replicate_kind(entry.kind), replicate_key(entry.key, number))
            if is_replicated(self.kinds, inside, entry)
            else entry
            for entry in self.kind.inputs(inside, own)
        ]

    def takes(self, lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
        return [entry for entry in inputs if self._is_taken(lineage, entry)]

    def config(self, lineage: Lineage, key: str) -> dict[str, Any]:
        own, number = split_key(key)
        return self.kind.config(Replicate(lineage, number), own)

    def price(self, sizes: "Sizes", key: str) -> Price | None:
        assert self.kind.price
        return self.kind.price(sizes, split_key(key)[0])

    def _is_taken(self, lineage: Lineage, entry: Input) -> bool:
        again = lineage.registry[entry.kind].replicate_of
        if not again:
            return bool(self.kind.takes(lineage, [entry]))
        own, number = split_key(entry.key)
        return bool(self.kind.takes(Replicate(lineage, number), [Input(again, own)]))

    def _own_keys(self, experiment: Experiment) -> list[str]:
        return [
            key
            for key in self.kind.keys(experiment)
            if is_replicated(self.kinds, experiment, Input(self.kind.name, key))
        ]
