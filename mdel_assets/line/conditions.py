"""Where and how a training runs. Nothing of it enters a fingerprint."""

import dataclasses
from typing import Any

from mdel_assets.tracking import Tracker


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a training is given besides its settings.

    After ``max_seconds`` it saves a checkpoint and ends, to be gone on with. ``tracker`` is where
    its curves go, ``run`` the W&B run that was opened for it. ``is_sharded``: parameters are split
    over the processes (FSDP) rather than copied to each (DDP).
    """

    max_seconds: float | None = None
    tracker: Tracker | None = None
    run: Any = None
    is_sharded: bool = False


NO_CONDITIONS = Conditions()
