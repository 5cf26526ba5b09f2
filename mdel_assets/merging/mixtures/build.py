"""A mixture of experts as a stream: from the experts' tensor files to one model folder.

Every matrix of an expert's feed-forward is copied to its place in the mixture. Every other tensor
is the seed's, or the mean of the experts' where they trained it. That is a merge of many small
jobs, with the memory, the threads and the checks of one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdel_assets.errors import MergeError
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.experiment.mixtures import Router
from mdel_assets.merge_methods.method import TensorSettings
from mdel_assets.merging.mixtures.contents import MixtureContents
from mdel_assets.merging.opening import open_sources
from mdel_assets.merging.process import set_up_for_streaming
from mdel_assets.merging.slices import Part
from mdel_assets.merging.sources import MergeInput, Source, refuse_differences
from mdel_assets.merging.streaming import (
    MergeResult,
    default_threads,
    merge_jobs,
    piece_size,
    run_jobs,
)
from mdel_assets.merging.tensor_job import TensorJob
from mdel_assets.model_families.mixture_families import family_of_seed
from mdel_assets.model_families.mixture_family import FEED_FORWARD, MATRICES, MixtureFamily
from mdel_assets.store.carry_over import carry_over
from mdel_assets.store.tensor_names import Layers
from mdel_assets.store.tensor_writer import TensorLayout

if TYPE_CHECKING:
    import torch

_MEAN = MergeRecipe.model_validate({"merge_method": "linear", "models": [{"model": "expert:*"}]})
_SETTINGS = TensorSettings("", (), ("",), {"weight": (1.0,)}, {"normalize": True})


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How experts are mixed, besides which they are."""

    router: Router
    experts_per_token: int
    general_expert: bool = False


@dataclasses.dataclass(frozen=True)
class MixtureResult:
    """The mixture as saved, and what it holds."""

    contents: MixtureContents
    merged: MergeResult


def build_mixture(
    experts: Sequence[MergeInput],
    folder: Path,
    *,
    seed: MergeInput,
    mixing: Mixing,
    gates_LED: "torch.Tensor",
    num_threads: int | None = None,
) -> MixtureResult:
    """Write the mixture of ``experts`` into ``folder``, as a model that transformers loads.

    ``gates_LED`` has a row for each of the seed's L layers and each expert in their order, that of
    the general expert, if there is one, last: it is called as ``seed`` is. Bytes do not depend on
    the number of threads.

    Raises:
        MergeError: the seed's family has no mixture; fewer experts than a token goes through;
            models that differ in tensors, shapes, dtypes or tokenizer; a NaN or infinity.

    """
    from mdel_assets.training.model_files import load_config

    config = load_config(seed.folder).to_dict()
    family = family_of_seed(config)
    num_experts = len(experts) + mixing.general_expert
    if mistake := too_few(num_experts, experts_per_token=mixing.experts_per_token):
        raise MergeError(mistake)
    with (
        set_up_for_streaming(),
        open_sources([*experts, seed], model_folder=seed.folder) as sources,
    ):
        refuse_differences(sources, tokenizer_folder=seed.folder, dtypes_may_differ=False)
        threads = num_threads or default_threads()
        layers = _FeedForwards(family, sources, copying_step(threads))
        result = _stream(layers, folder, mixing=mixing, gates_LED=gates_LED, num_threads=threads)
    carry_over(seed.folder, folder, dtype=None)
    mixed = result.contents.mixture_layers
    family.write_configuration(
        config,
        folder,
        num_experts=num_experts,
        experts_per_token=mixing.experts_per_token,
        dense_layers=[layer for layer in range(layers.count) if layer not in mixed],
    )
    result.contents.write(folder)
    return result


def _stream(
    layers: "_FeedForwards",
    folder: Path,
    *,
    mixing: Mixing,
    gates_LED: "torch.Tensor",
    num_threads: int,
) -> MixtureResult:
    """Write the tensors of a mixture, and return what they are."""
    trained = layers.trained_by_each()
    mixed = layers.that_become_mixtures(trained)
    shared = list(layers.shared_jobs(mixed))
    own = [*layers.experts, *([layers.seed] * mixing.general_expert)]
    copies = list(layers.expert_jobs(own, mixed))
    merged = run_jobs(
        [*shared, *copies],
        folder,
        num_threads=num_threads,
        given=layers.gates(gates_LED, mixed),
    )
    contents = MixtureContents(
        router=mixing.router,
        experts=tuple(expert.entry.name for expert in own),
        trained_layers=trained,
        mixture_layers=mixed,
        num_mean_tensors=len(shared) + len(copies) - merged.num_copied_tensors,
    )
    return MixtureResult(contents, merged)


def too_few(num_experts: int, *, experts_per_token: int) -> str | None:
    """Say what is wrong where a mixture has fewer experts than a token goes through."""
    if num_experts >= max(2, experts_per_token):
        return None
    return (
        f"The mixture has {num_experts} experts, and a token goes through {experts_per_token} of "
        f"them: a mixture needs two or more, and as many as that. Lower experts_per_token, or take "
        f"more experts."
    )


class _FeedForwards:
    """The feed-forward blocks of some models' layers; the seed is the last of ``sources``."""

    def __init__(self, family: MixtureFamily, sources: Sequence[Source], step: int) -> None:
        self.family, self.step = family, step
        self.experts, self.seed = sources[:-1], sources[-1]
        layers = Layers.of(self.seed.own_names)
        self.prefix, self.count = layers.prefix, layers.num_layers

    def _name(self, layer: int, matrix: str) -> str:
        return f"{self.prefix}{layer}.{FEED_FORWARD}.{matrix}.weight"

    def trained_by_each(self) -> dict[str, list[int]]:
        """Return the layers in which each expert's feed-forward is not the seed's."""
        return {
            expert.entry.name: [
                layer
                for layer in range(self.count)
                if not all(self._is_seeds(expert, self._name(layer, name)) for name in MATRICES)
            ]
            for expert in self.experts
        }

    def _is_seeds(self, expert: Source, name: str) -> bool:
        known = expert.is_frozen(name)
        return known if known is not None else self._copy(expert, name, name, self.seed).is_copied()

    def that_become_mixtures(self, trained: Mapping[str, Sequence[int]]) -> list[int]:
        """Return which layers become mixtures: all, or those that an expert trained."""
        found = sorted(set().union(*trained.values()))
        if not found:
            raise MergeError(
                "No expert's feed-forward blocks differ from the seed's, so there is nothing to "
                "mix. Train them (training.trained_layers, as in '9-13.mlp' or 9-13)."
            )
        return found if self.family.can_stay_dense else list(range(self.count))

    def shared_jobs(self, mixed: Sequence[int]) -> Iterator[TensorJob]:
        """Yield a job for every tensor that is no part of a mixture: the experts' mean of it."""
        taken = {self._name(layer, name) for layer in mixed for name in MATRICES}
        everything = Part.whole(self.experts, has_base=False)
        for job in merge_jobs(_MEAN, everything, piece=self.step):
            if job.name not in taken:
                yield job

    def expert_jobs(self, experts: Sequence[Source], mixed: Sequence[int]) -> Iterator[TensorJob]:
        """Yield a job for every matrix of every expert of a mixture."""
        for number, expert in enumerate(experts):
            for layer in mixed:
                for matrix in MATRICES:
                    place = f"{self.prefix}{layer}."
                    name = self.family.matrix_name(place, number, matrix)
                    yield self._copy(expert, self._name(layer, matrix), name)

    def _copy(
        self, source: Source, name: str, out_name: str, like: Source | None = None
    ) -> TensorJob:
        """Return the job of copying a tensor; where ``like`` is given, if that has the same."""
        return copy_job(source, name, out_name, step=self.step, like=like)

    def gates(
        self, gates_LED: "torch.Tensor", mixed: Sequence[int]
    ) -> "dict[TensorLayout, torch.Tensor]":
        """Return the gates of the mixtures, in the dtype of their feed-forwards."""
        dtype = self.seed.stored(self._name(0, MATRICES[0])).dtype
        return {
            TensorLayout(
                self.family.gate_name(f"{self.prefix}{layer}."),
                tuple(gates_LED[layer].shape),
                dtype,
            ): gates_LED[layer]
            for layer in mixed
        }


def copying_step(num_threads: int) -> int:
    """Return how many elements of a tensor a thread holds at a time, where all are copied."""
    return piece_size(_MEAN, num_models=1, num_threads=num_threads)


def copy_job(
    source: Source, name: str, out_name: str, *, step: int, like: Source | None = None
) -> TensorJob:
    """Return the job of writing a source's tensor under another name, as it is.

    Where ``like`` is given, the job tells whether that holds the same bytes.
    """
    stored = source.stored(name)
    return TensorJob(
        name=name,
        layout=TensorLayout(out_name, stored.shape, stored.dtype),
        method=_MEAN.method,
        settings=_SETTINGS,
        models=(source,),
        base=like,
        step=step,
        is_known_equal=like is None,
    )
