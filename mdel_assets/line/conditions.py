"""Where and how a training runs. Nothing here enters a fingerprint."""

import dataclasses
from typing import Any

from mdel_assets.tracking import Tracker


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions of a training, besides its settings.

    After ``max_seconds`` it saves a checkpoint and ends; a later run resumes it. ``tracker``
    receives its curves, ``run`` is the W&B run opened for it. With ``is_sharded``, parameters are
    split over the processes (FSDP) instead of copied to each (DDP).
    """

    max_seconds: float | None = None
    tracker: Tracker | None = None
    run: Any = None
    is_sharded: bool = False


NO_CONDITIONS = Conditions()
