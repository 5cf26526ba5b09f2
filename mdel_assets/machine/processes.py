"""The processes of one training: their number, the first one, and decisions they take together.

A launcher such as torchrun, accelerate or srun starts them and describes them in the environment.
Every process trains; only the first one writes.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping

from mdel_assets.errors import TrainingError


def num_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes train together."""
    return int(environment.get("WORLD_SIZE", "1"))


def is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the one that writes."""
    return int(environment.get("RANK", "0")) == 0


def is_one_machine(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether all processes run on this machine."""
    return int(environment.get("LOCAL_WORLD_SIZE", "1")) == num_processes(environment)


def require_processes(wanted: int) -> None:
    """Refuse to train if the launcher started another number of processes than ``wanted``.

    Raises:
        TrainingError: the numbers differ; each process would train as if it were the only one.

    """
    if num_processes() != wanted:
        raise TrainingError(
            f"The launcher should have started {wanted} processes that train together, but "
            f"WORLD_SIZE is {num_processes()}. Use torchrun, or correct compute.launcher."
        )


def any_process(*, says: bool) -> bool:
    """Return whether any process says so; all processes must call this together."""
    if num_processes() == 1:
        return says
    import torch
    from torch import distributed

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(float(says), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Let no process continue before all have reached the end of the block."""
    yield
    if num_processes() > 1:
        any_process(says=False)
