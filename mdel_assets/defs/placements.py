"""What a plan has to know of `compute.yaml`."""

from mdel_assets.defs.compute import Compute
from mdel_assets.engines.settings import QueueSettings, RaySettings, SlurmSettings
from mdel_assets.kinds import KINDS
from mdel_assets.planning.placements import Placement


def placements_of(compute: Compute) -> dict[str, Placement]:
    """Return where artifacts of each kind that can be made elsewhere are made.

    Raises:
        ExperimentError: a setting is invalid.

    """
    found = {}
    for kind in KINDS:
        if not kind.is_heavy or kind.replicate_of:
            continue
        place = compute.place_of(kind.name)
        is_shared = kind.is_training and place.engine != "local"
        found[kind.name] = Placement(
            engine=place.engine,
            num_processes=compute.num_processes if is_shared else 1,
            models_at_once=compute.models_at_once if kind.is_training else None,
            resources=", ".join(_resources(place.queue)),
            has_gpu=_has_gpu(place.queue),
            division=place.division,
            max_at_once=getattr(place.queue, "max_at_once", None),
        )
    return found


def _resources(queue: QueueSettings | None) -> list[str]:
    if isinstance(queue, SlurmSettings):
        named = f"partition {queue.partition}" if queue.partition else ""
        return list(filter(None, [_amount(queue.gpus, "GPU"), _amount(queue.cpus, "core"), named]))
    if isinstance(queue, RaySettings):
        amounts = {"GPU": queue.num_gpus, "core": queue.num_cpus} | queue.resources
        return [told for name, amount in amounts.items() if (told := _amount(amount, name))]
    return []


def _amount(amount: float | str | None, name: str) -> str:
    """Return ``2 GPUs``; a text names the kind, too, as ``a100:2`` does."""
    if isinstance(amount, str):
        return f"{name}s {amount}"
    return f"{amount:g} {name}{'s' * (amount != 1)}" if amount else ""


def _has_gpu(queue: QueueSettings | None) -> bool:
    gpus = queue.num_gpus if isinstance(queue, RaySettings) else getattr(queue, "gpus", None)
    return bool(gpus)
