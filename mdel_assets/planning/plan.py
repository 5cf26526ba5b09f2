"""The plan of a run: for each stage, and in sum, what would be made and what that takes.

The prices come from the kinds' rows, for exactly the artifacts that a run would make. A `Clock`
turns them into seconds: of this machine, or of a device that is named.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mdel_assets.errors import MdelError
from mdel_assets.line.kind import Kind
from mdel_assets.line.price import Price
from mdel_assets.planning.clock import SECONDS_OF_LIBRARIES, Clock, num_runs, peak_memory
from mdel_assets.planning.in_words import size_in_words
from mdel_assets.planning.placements import Placement, Placements, placement_of
from mdel_assets.planning.wanted import Wanted
from mdel_assets.training.sizes import Sizes

# What Dagster keeps of a run.
_HISTORY_BYTES = 230_000.0


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A kind of artifact: how many are up to date, how many are to make, and what that takes.

    ``not_priced`` are those of them without a price; the figures leave them out. ``seconds`` and
    ``operations`` are of all together, ``memory_bytes`` is the peak while ``num_at_once`` are made
    at the same time. ``why`` says why something has no price. ``jobs`` says which jobs of a cluster
    make them: then the memory is that of a job, and it does not matter here.
    """

    kind: str
    num_to_make: int
    num_up_to_date: int
    not_priced: tuple[str, ...]
    why: str
    num_tokens: float
    operations: float
    seconds: float
    disk_bytes: float
    memory_bytes: float
    num_at_once: int
    fits: bool
    jobs: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run, stage by stage. ``notes`` say what the figures rest on, and what they leave out.

    ``remedies`` say what would change the bill, and by how much. ``slowness`` is the clock's.
    """

    experiment: str
    device: str
    stages: tuple[StagePlan, ...]
    disk_free_bytes: float
    memory_free_bytes: float
    notes: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    slowness: float = 1.0

    @property
    def seconds(self) -> float:
        """The seconds of all stages, which run one after the other, and of loading libraries."""
        begun = self.slowness * SECONDS_OF_LIBRARIES if self.num_to_make else 0.0
        return sum(stage.seconds for stage in self.stages) + begun

    @property
    def operations(self) -> float:
        """The operations of all stages."""
        return sum(stage.operations for stage in self.stages)

    @property
    def num_tokens(self) -> float:
        """The tokens that models read in all stages."""
        return sum(stage.num_tokens for stage in self.stages)

    @property
    def disk_bytes(self) -> float:
        """The bytes that all stages leave on the disk."""
        return sum(stage.disk_bytes for stage in self.stages)

    @property
    def memory_bytes(self) -> float:
        """The largest peak of a stage that is no job of a cluster."""
        peaks = (stage.memory_bytes for stage in self.stages if not stage.jobs)
        return max(peaks, default=0.0)

    @property
    def num_to_make(self) -> int:
        """The artifacts to make."""
        return sum(stage.num_to_make for stage in self.stages)

    @property
    def not_priced(self) -> list[str]:
        """The kinds with something that has no price."""
        return [stage.kind for stage in self.stages if stage.not_priced]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON has it, with the sums."""
        sums = ("num_to_make", "num_tokens", "operations", "seconds", "disk_bytes", "memory_bytes")
        total = {name: getattr(self, name) for name in sums}
        return dataclasses.asdict(self) | {"total": total | {"not_priced": self.not_priced}}


def _what_helps(kind: str) -> str:
    """Return what a stage that does not fit into memory does, or what its user can do."""
    if kind.startswith("token_scores"):
        return "A model that does not fit is spread over GPUs, memory and its files, which is slow"
    return "Lower micro_batch_size, set gradient_checkpointing, or train fewer layers"


def warnings_of(plan: Plan) -> list[str]:
    """Return a sentence for every stage that does not fit into memory, and for the disk."""
    found = [
        f"{stage.kind} needs {size_in_words(stage.memory_bytes)} of memory"
        f"{f' ({stage.num_at_once} at a time)' if stage.num_at_once > 1 else ''}, of which "
        f"{size_in_words(plan.memory_free_bytes)} are free. {_what_helps(stage.kind)}"
        for stage in plan.stages
        if not stage.fits
    ]
    if plan.disk_bytes > plan.disk_free_bytes:
        found.append(
            f"the disk needs {size_in_words(plan.disk_bytes)}, of which "
            f"{size_in_words(plan.disk_free_bytes)} are free. Free some, or set MDEL_HOME to "
            f"another disk"
        )
    return found


def plan_stages(
    sizes: Sizes,
    wanted: Sequence[Wanted],
    clock: Clock,
    placements: Placements = MappingProxyType({}),
) -> list[StagePlan]:
    """Return what making the ``wanted`` artifacts takes, as ``clock`` measures time."""
    stages = []
    for entry in wanted:
        kind = sizes.lineage.registry[entry.kind]
        prices, why = prices_of(sizes, kind, entry.keys)
        placement = placement_of(kind, placements)
        stages.append(_stage(entry, kind, prices, why, clock, sizes, placement))
    return stages


def prices_of(sizes: Sizes, kind: Kind, keys: Sequence[str]) -> tuple[dict[str, Price], str]:
    """Return the prices of those ``keys`` that have one, and why the others have none."""
    if kind.price is None:
        return {}, "this kind has no price"
    found: dict[str, Price] = {}
    why = ""
    for key in keys:
        try:
            price = kind.price(sizes, key)
        except MdelError as error:
            price, why = None, str(error)
        if price is not None:
            found[key] = price
        else:
            why = why or "its size is not known beforehand"
    return found, why


def _stage(
    entry: Wanted,
    kind: Kind,
    prices: Mapping[str, Price],
    why: str,
    clock: Clock,
    sizes: Sizes,
    placement: Placement,
) -> StagePlan:
    pieces = list(prices.values())
    count = clock.num_at_once(kind, pieces, sizes, placement)
    memory = peak_memory(pieces, count * clock.num_copies(placement))
    is_of_others = placement.is_elsewhere and not clock.has_jobs
    disk = _sum(pieces, lambda price: price.disk_bytes)
    return StagePlan(
        kind=entry.kind,
        num_to_make=len(entry.keys),
        num_up_to_date=entry.num_up_to_date,
        not_priced=tuple(key for key in entry.keys if key not in prices),
        why=why if len(prices) < len(entry.keys) else "",
        num_tokens=_sum(pieces, lambda price: price.num_tokens),
        operations=_sum(pieces, lambda price: price.operations),
        seconds=clock.seconds(kind, pieces, count, sizes, placement),
        disk_bytes=disk + _HISTORY_BYTES * num_runs(kind, len(pieces), placement),
        memory_bytes=memory,
        num_at_once=count,
        fits=is_of_others or memory <= clock.memory_bytes,
        jobs=placement.in_words(kind, len(entry.keys)),
    )


def _sum(prices: Sequence[Price], figure: Callable[[Price], float]) -> float:
    return math.fsum(map(figure, prices))
