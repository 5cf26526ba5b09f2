"""Prices: what making one artifact takes, before it is made.

A kind's row names the function that prices its artifacts (`Kind.price`); `mdel_assets.planning`
sums the prices and turns operations into seconds on a machine.
"""

import dataclasses
from typing import Any, Literal

# What a remote source is taken to send, and a Hub to receive, in a second.
FETCHED_PER_SECOND = SENT_PER_SECOND = 3.0e7


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a model computes: what the speed of a device depends on besides the model.

    In training, ``num_rows`` blocks of ``length`` tokens at once, ``num_passes`` times a step.
    In scoring, windows of ``length`` tokens. ``trained_layers`` is as in the experiment, None where
    everything is trained.
    """

    work: Literal["training", "scoring"]
    length: int
    dtype: Literal["float32", "bfloat16"]
    num_rows: int = 1
    num_passes: int = 1
    trained_layers: str | tuple[int | str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Price:
    """What making one artifact takes.

    ``num_tokens`` are read by a model, which takes ``operations`` (floating-point operations of
    matrix products) at a ``pace``. ``disk_bytes`` stay on the disk. ``memory_bytes`` is the peak of
    the process that makes it, besides libraries. ``core_seconds`` is other work: reading,
    tokenizing, hashing, drawing samples, on one core for which `planning.measure.slowness` is 1.
    ``network_seconds`` pass while something is fetched or sent. ``config`` is the configuration of
    the model that computes, where that is not the seed's. ``sent_bytes`` go to a Hub.
    """

    num_tokens: float = 0.0
    operations: float = 0.0
    disk_bytes: float = 0.0
    memory_bytes: float = 0.0
    core_seconds: float = 0.0
    network_seconds: float = 0.0
    pace: Pace | None = None
    config: Any = None
    sent_bytes: float = 0.0
