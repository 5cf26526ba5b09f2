"""An expert leaves a mixture: its matrices and its gates' rows are left out, all else is copied.

What comes out is the mixture that would have been built without the expert, to the byte.
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mdel_assets.errors import MergeError, unknown_name_message
from mdel_assets.merging.mixtures.build import (
    MixtureResult,
    copy_job,
    copying_step,
    too_few,
)
from mdel_assets.merging.mixtures.contents import MixtureContents
from mdel_assets.merging.opening import open_sources
from mdel_assets.merging.process import set_up_for_streaming
from mdel_assets.merging.sources import MergeInput, Source
from mdel_assets.merging.streaming import default_threads, run_jobs
from mdel_assets.model_families.mixture_families import family_called
from mdel_assets.model_families.mixture_family import read_content, write_content
from mdel_assets.store.carry_over import carry_over
from mdel_assets.store.tensor_writer import TensorLayout

if TYPE_CHECKING:
    import torch


def leave_mixture(
    mixture: Path, folder: Path, *, expert: str, num_threads: int | None = None
) -> MixtureResult:
    """Write the mixture in the folder ``mixture`` without ``expert`` into ``folder``.

    Raises:
        MergeError: the expert cannot leave, for the reason that `reason_to_stay` gives.

    """
    if reason := reason_to_stay(mixture, expert):
        raise MergeError(reason)
    contents = MixtureContents.read(mixture)
    family = family_called(read_content(mixture)["model_type"])
    left = contents.experts.index(expert)
    threads = num_threads or default_threads()
    with (
        set_up_for_streaming(),
        open_sources([MergeInput(mixture.name, mixture)], model_folder=mixture) as (source,),
    ):
        matrix = re.compile(rf"\.{re.escape(family.block)}\.experts\.(\d+)\.")
        gates = [n for n in source.own_names if n.endswith(f".{family.gate_name('')}")]
        jobs = []
        for name, own in source.own_names.items():
            found = matrix.search(own)
            number = int(found[1]) if found else -1
            if name in gates or number == left:
                continue
            if found and number > left:
                own = f"{own[: found.start(1)]}{number - 1}{own[found.end(1) :]}"
            jobs.append(copy_job(source, name, own, step=copying_step(threads)))
        given = dict(_gate_without(source, name, left) for name in gates)
        result = run_jobs(jobs, folder, num_threads=threads, given=given)
    carry_over(mixture, folder, dtype=None)
    _count_one_fewer(mixture, folder)
    rest = dataclasses.replace(
        contents,
        experts=tuple(name for name in contents.experts if name != expert),
        trained_layers={k: v for k, v in contents.trained_layers.items() if k != expert},
    )
    rest.write(folder)
    return MixtureResult(rest, result)


def reason_to_stay(mixture: Path, expert: str) -> str | None:
    """Return why ``expert`` cannot leave the mixture in a folder; None where it can.

    Raises:
        MergeError: the folder holds no mixture.

    """
    contents, config = MixtureContents.read(mixture), read_content(mixture)
    if expert not in contents.experts:
        return unknown_name_message("expert", expert, contents.experts)
    count, needed = len(contents.experts) - 1, config["num_experts_per_tok"]
    if mistake := too_few(count, experts_per_token=needed):
        return mistake
    if contents.router == "trained":
        return (
            f"The gates of this mixture were trained with '{expert}' in it. Build it anew without "
            f"the expert, or with router: domains, whose rows know nothing of each other."
        )
    if contents.num_mean_tensors:
        return (
            f"{contents.num_mean_tensors} tensors of this mixture are means of all experts' own, "
            f"'{expert}' among them. Build it anew without the expert; experts of feed-forwards "
            f"alone (training.trained_layers, as in '9-13.mlp') leave no such trace."
        )
    can_stay_dense = family_called(config["model_type"]).can_stay_dense
    if can_stay_dense and (lost := _only_its(contents, expert)):
        return (
            f"Layers {lost} are mixtures because '{expert}' alone trained them. Build the mixture "
            f"anew without the expert."
        )
    return None


def _only_its(contents: MixtureContents, expert: str) -> list[int]:
    """Return the layers that no other expert trained."""
    others = (layers for name, layers in contents.trained_layers.items() if name != expert)
    return sorted(set(contents.trained_layers.get(expert, ())) - set().union(*others))


def _gate_without(source: Source, name: str, left: int) -> "tuple[TensorLayout, torch.Tensor]":
    """Return a layer's gate without one of its rows."""
    import torch

    stored = source.stored(name)
    num_experts, width = stored.shape
    gate_ED = source.read(name, 0, stored.num_elements).reshape(num_experts, width)
    rest_ED = torch.cat([gate_ED[:left], gate_ED[left + 1 :]])
    layout = TensorLayout(source.own_names[name], tuple(rest_ED.shape), stored.dtype)
    return layout, rest_ED


def _count_one_fewer(mixture: Path, folder: Path) -> None:
    content = read_content(mixture)
    for name in ("num_experts", "num_local_experts"):
        if name in content:
            content[name] -= 1
    write_content(content, folder)
