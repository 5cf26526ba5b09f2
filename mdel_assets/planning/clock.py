"""How long the artifacts of a stage take: on this machine, as measured, or on a named device."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mdel_assets.data.kinds import shard_keys
from mdel_assets.errors import MdelError
from mdel_assets.line.kind import Kind
from mdel_assets.line.price import Price
from mdel_assets.planning.devices import Device
from mdel_assets.planning.measure import device_name, measured_pace, num_cores, slowness
from mdel_assets.planning.placements import HERE, Placement
from mdel_assets.training.sizes import Sizes

# Dagster's part of a run; a process with its libraries; the libraries of the run itself.
_SECONDS_PER_RUN, _SECONDS_PER_PROCESS, SECONDS_OF_LIBRARIES = 0.25, 1.2, 8.0
# As `defs/compute.py` and `evaluation/steps.py` reckon the memory of models made side by side.
_TRAINING_BYTES, _SCORING_BYTES = 20, 32
# What a process has besides a model: that of the run with Dagster, by itself and while others work
# for it, and one that was forked for work.
_RUN_BYTES, _WAITING_BYTES, _FORKED_BYTES = 1.0e9, 0.9e9, 0.3e9


class Clock(Protocol):
    """Turns prices into seconds.

    ``memory_bytes`` is the memory that there is, which jobs share if ``has_jobs``. ``slowness`` is
    how many times as long as prices say other work takes than a model's.
    """

    name: str
    memory_bytes: float
    slowness: float
    has_jobs: bool

    def num_at_once(
        self, kind: Kind, prices: Sequence[Price], sizes: Sizes, placement: Placement = HERE
    ) -> int:
        """Return how many artifacts are made at the same time in the same memory."""

    def num_copies(self, placement: Placement) -> int:
        """Return in how many processes a model lies in the same memory while it is trained."""

    def seconds(
        self,
        kind: Kind,
        prices: Sequence[Price],
        count: int,
        sizes: Sizes,
        placement: Placement = HERE,
    ) -> float:
        """Return how long artifacts take of which ``count`` are made at the same time."""


class ThisMachine:
    """The machine that this is, as it was measured: its cores are otherwise idle."""

    has_jobs = False

    def __init__(self, *, cache: Path) -> None:
        import psutil
        import torch

        self._cache = cache
        self.name = device_name()
        self.slowness = slowness()
        self.memory_bytes = float(psutil.virtual_memory().available)
        self._has_gpu = torch.cuda.is_available()
        if self._has_gpu:
            self.memory_bytes = float(torch.cuda.mem_get_info()[0])

    def num_at_once(
        self, kind: Kind, prices: Sequence[Price], sizes: Sizes, placement: Placement = HERE
    ) -> int:
        """Return how many artifacts are made at the same time, decided as a run decides it."""
        from mdel_assets.machine.side_by_side import num_at_once

        is_scoring = bool(kind.write_together and kind.operations)
        if placement.engine != "local":
            return 1
        if kind.keys is shard_keys:
            return max(1, min(len(prices), num_cores()))
        if len(prices) < 2 or not (kind.links_to or is_scoring):
            return 1
        if placement.models_at_once and kind.links_to:
            return min(len(prices), placement.models_at_once)
        operations = max(price.operations for price in prices)
        size = _SCORING_BYTES if is_scoring else _TRAINING_BYTES
        try:
            num_parameters = sizes.model.num_parameters
        except MdelError:
            # Only models from elsewhere have a price then.
            return 1
        model_bytes = size * num_parameters
        if is_scoring:
            # Models to compare with may be larger than the seed.
            model_bytes = max(model_bytes, int(max(price.memory_bytes for price in prices)))
        return num_at_once(
            len(prices),
            model_bytes=model_bytes,
            num_operations=operations * (len(prices) / 2 if is_scoring else 1.0),
        )

    def num_copies(self, placement: Placement) -> int:
        """Return in how many processes a model is trained; each has its own GPU, if there are."""
        has_gpu = placement.has_gpu if placement.is_elsewhere else self._has_gpu
        return 1 if has_gpu else placement.num_processes

    def seconds(
        self,
        kind: Kind,
        prices: Sequence[Price],
        count: int,
        sizes: Sizes,
        placement: Placement = HERE,
    ) -> float:
        """Return how long artifacts take of which ``count`` are made at the same time.

        Jobs are taken to run on machines like this one.
        """
        num_processes = placement.num_processes
        num_measured = 1 if self._has_gpu else min(count * num_processes, max(count, num_cores()))
        each = []
        for price in prices:
            seconds = self.slowness * price.core_seconds + price.network_seconds
            if price.pace:
                config = price.config or sizes.model.config
                found = measured_pace(
                    config, price.pace, num_processes=num_measured, cache=self._cache
                )
                seconds += price.operations / num_processes / found.operations_per_second
            each.append(seconds)
        if placement.is_elsewhere:
            return _seconds_of_jobs(placement, kind, each, slowness=self.slowness)
        # Scorings are dealt out beforehand; of others, each has a process of its own.
        is_dealt_out = bool(kind.write_together)
        rounds = len(each) / count if is_dealt_out else math.ceil(len(each) / count)
        num_begun = 1 if is_dealt_out else math.ceil(len(each) / count)
        begun = _SECONDS_PER_PROCESS * num_begun if count > 1 else 0.0
        begun += SECONDS_OF_LIBRARIES * len(each) if num_processes > 1 else 0.0
        begun += _SECONDS_PER_RUN * num_runs(kind, len(each))
        return _mean(each) * rounds + self.slowness * begun


class OtherDevices:
    """Devices of one kind: each makes an artifact, and all of them together a single one.

    Where `compute.yaml` says how many processes train a model, so many devices do, if there are.
    """

    has_jobs = True
    slowness = 1.0

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name = f"{device.count} x {device.name}" if device.count > 1 else device.name
        self.memory_bytes = device.memory_bytes or math.inf

    def num_at_once(
        self, kind: Kind, prices: Sequence[Price], sizes: Sizes, placement: Placement = HERE
    ) -> int:
        """Return 1: every device has a memory of its own."""
        return 1

    def num_copies(self, placement: Placement) -> int:
        """Return 1: every device has a memory of its own."""
        return 1

    def seconds(
        self,
        kind: Kind,
        prices: Sequence[Price],
        count: int,
        sizes: Sizes,
        placement: Placement = HERE,
    ) -> float:
        """Return how long artifacts take on all devices."""
        num_devices = self._device.count
        num_together = min(placement.num_processes, num_devices)
        if placement.engine == "local" and len(prices) == 1:
            num_together = num_devices
        each = []
        for price in prices:
            rate = self._device.rate(price.pace) if price.pace else math.inf
            other = price.core_seconds + price.network_seconds
            each.append(other + price.operations / num_together / rate)
        at_once = num_devices // num_together
        is_computed = any(price.pace for price in prices)
        if placement.is_elsewhere:
            limit = at_once if is_computed else None
            return _seconds_of_jobs(placement, kind, each, at_once=limit)
        rounds = math.ceil(len(each) / at_once) if is_computed else len(each)
        return _mean(each) * rounds + _SECONDS_PER_RUN * num_runs(kind, len(each))


def _seconds_of_jobs(
    placement: Placement,
    kind: Kind,
    each: Sequence[float],
    *,
    at_once: int | None = None,
    slowness: float = 1.0,
) -> float:
    """Return how long jobs take whose artifacts take ``each`` so many seconds, without a queue."""
    if not each:
        return 0.0
    num_jobs = placement.num_jobs(kind, len(each))
    of_one = math.fsum(each) / num_jobs + slowness * SECONDS_OF_LIBRARIES
    return of_one * placement.rounds(num_jobs, at_once=at_once) + slowness * _SECONDS_PER_RUN


def peak_memory(prices: Sequence[Price], count: int) -> float:
    """Return the memory in bytes while ``count`` of the artifacts are made at the same time."""
    if not prices:
        return 0.0
    of_one = max(price.memory_bytes for price in prices)
    if count == 1:
        return _RUN_BYTES + of_one
    return _WAITING_BYTES + count * (_FORKED_BYTES + of_one)


def num_runs(kind: Kind, num_to_make: int, placement: Placement = HERE) -> int:
    """Return how many of Dagster's runs make so many artifacts of a kind."""
    is_one = kind.write_together or kind.links_to or placement.is_elsewhere
    return min(1, num_to_make) if is_one else num_to_make


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
