"""A plan from beginning to end: sizes, prices, time, notes and remedies."""

import dataclasses
import os
import shutil
from types import MappingProxyType

from mdel_assets.errors import MdelError
from mdel_assets.line.lineage import Lineage
from mdel_assets.planning.clock import Clock, OtherDevices, ThisMachine
from mdel_assets.planning.devices import Device
from mdel_assets.planning.measure import num_cores
from mdel_assets.planning.placements import HERE, Placements
from mdel_assets.planning.plan import Plan, StagePlan, plan_stages
from mdel_assets.planning.publications import publishing_in_words
from mdel_assets.planning.remedies import remedies_of, sharing_in_words
from mdel_assets.planning.wanted import wanted_artifacts
from mdel_assets.training.sizes import Sizes


def plan_run(
    lineage: Lineage,
    *,
    device: Device | None = None,
    until: str | None = None,
    placements: Placements = MappingProxyType({}),
) -> Plan:
    """Return the plan of a run on this machine, or on a ``device``; ``until`` is the last kind.

    ``placements`` say which kinds are made elsewhere, or by several processes together.

    Raises:
        ExperimentError: a glob of the sources matches nothing.

    """
    sizes = _sizes(lineage, device, placements)
    clock: Clock = OtherDevices(device) if device else ThisMachine(cache=lineage.cache)
    wanted = wanted_artifacts(sizes, until=until)
    stages = plan_stages(sizes, wanted, clock, placements)
    plan = Plan(
        experiment=lineage.experiment.name,
        device=clock.name,
        stages=tuple(stages),
        disk_free_bytes=_disk_free(lineage),
        memory_free_bytes=clock.memory_bytes,
        notes=(),
        slowness=clock.slowness,
    )
    remedies: list[str] = []
    notes = [f"Text and tokens are judged by {sizes.text.known_by}."]
    notes += _notes_on_time(device)
    try:
        if told := sharing_in_words(sizes):
            notes.append(f"Shared trunk: {told}.")
        if any(stage.operations for stage in stages):
            remedies = remedies_of(sizes, wanted, stages, clock, placements)
    except MdelError:
        # Why the model is not known is said where it has no price.
        pass
    notes += _notes_on_jobs(stages, device)
    if until is None and (told := publishing_in_words(sizes)):
        notes.append(told)
    notes += _notes_on_what_is_missing(stages)
    return dataclasses.replace(plan, notes=tuple(notes), remedies=tuple(remedies))


def _sizes(lineage: Lineage, device: Device | None, placements: Placements) -> Sizes:
    """Return the sizes of what a run makes, where it makes it."""
    import torch

    is_here_on_gpu = device is not None or torch.cuda.is_available()
    training = placements.get("expert_model", HERE)
    scoring = placements.get("token_scores", HERE)
    num_processes = 1 if is_here_on_gpu else num_cores()
    if scoring.is_elsewhere:
        # Each job scores a pack of models.
        num_models = len(lineage.experiment.model_keys)
        num_processes = -(-num_models // scoring.division.models_per_job)
    is_on_gpu = is_here_on_gpu
    if training.is_elsewhere and device is None:
        is_on_gpu = training.has_gpu
    return Sizes(lineage, is_on_gpu=is_on_gpu, num_processes=num_processes)


def _disk_free(lineage: Lineage) -> float:
    folder = lineage.root
    while not folder.exists():
        folder = folder.parent
    return float(shutil.disk_usage(folder).free)


def _notes_on_time(device: Device | None) -> list[str]:
    if device is not None:
        notes = ["Work besides matrix products is timed as on one ordinary processor core."]
        if not device.is_achieved:
            notes.append("Trainings are taken to reach 40 % of the device's peak, scorings 31 %.")
        return notes
    load, cores = os.getloadavg()[0], num_cores()
    notes = ["Times are of this machine with nothing else on it."]
    if load > cores / 2:
        notes.append(
            f"It is busy now (load average {load:.1f} on {cores} cores): a run takes longer as "
            f"long as it is."
        )
    return notes


def _notes_on_jobs(stages: list[StagePlan], device: Device | None) -> list[str]:
    found = [f"{stage.kind} is made elsewhere: {stage.jobs}." for stage in stages if stage.jobs]
    if found and device is None:
        found.append(
            "Jobs are timed as on machines like this one, without the time that they wait in the "
            "queue; for those of the cluster, name their device (--device). Their memory is not "
            "this machine's."
        )
    elif found:
        found.append("The time that jobs wait in the queue is not counted.")
    return found


def _notes_on_what_is_missing(stages: list[StagePlan]) -> list[str]:
    return [
        f"Not priced: {stage.kind} ({len(stage.not_priced)} of {stage.num_to_make}): {stage.why}"
        for stage in stages
        if stage.not_priced
    ]
