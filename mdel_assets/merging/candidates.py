"""Candidates of a search: one model in memory, with tensors that are merged again for each one.

Only tensors in which the recipe's models differ are changed, and they get the same bits that
`streaming` would write. If the first layers do not differ, another candidate costs only the layers
after them.

Shapes: G groups of layers, M models besides the base.
"""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import MdelError, MergeError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.opening import open_sources
from mdel_assets.merging.slices import Part
from mdel_assets.merging.sources import MergeInput, Source, refuse_differences
from mdel_assets.merging.streaming import merge_jobs
from mdel_assets.merging.tensor_job import TensorJob
from mdel_assets.scoring.kept_states import KeptStates, KeptTrunk
from mdel_assets.scoring.loading import load_for_scoring
from mdel_assets.scoring.log_probabilities import Scorer, scoring_progress
from mdel_assets.scoring.shared_trunk import num_layers_before
from mdel_assets.store.tensor_files import torch_dtype
from mdel_assets.store.tensor_names import Layers

_PIECE = 1 << 18
_MAX_THREADS = 4


class Candidates:
    """The models that a recipe makes with different weights, one at a time in memory.

    Use it as a context manager. ``folder`` holds hidden states while it is open.

    Raises:
        MergeError: the models cannot be merged, differ in fewer layers than there are groups, or
            have a tensor that the model in memory does not have by this name.

    """

    def __init__(
        self,
        recipe: MergeRecipe,
        inputs: Sequence[MergeInput],
        *,
        base: MergeInput,
        evaluation: Evaluation,
        folder: Path,
        layer_groups: int = 1,
    ) -> None:
        self._recipe = recipe
        self._inputs = [*inputs, base]
        self._evaluation = evaluation
        self._folder = folder
        self._num_groups = layer_groups
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            base = self._inputs[-1].folder
            self._sources = stack.enter_context(open_sources(self._inputs, model_folder=base))
            refuse_differences(
                self._sources,
                tokenizer_folder=base,
                dtypes_may_differ=self._recipe.dtype_of_output is not None,
            )
            everyone = {entry.name: 1.0 for entry in self._inputs[:-1]}
            self._changed = {job.name for job in self._jobs(everyone) if not job.is_copied()}
            layers = Layers.of(self._sources[0].own_names)
            self._groups = layer_groups(layers, self._changed, count=self._num_groups)
            self._model = load_for_scoring(base, self._evaluation)
            self._parameters = {name: self._parameter(name) for name in self._changed}
            self.num_shared_layers = num_layers_before(self._model, self._changed)
            self._states = stack.enter_context(KeptStates(self._folder))
            self._pool = stack.enter_context(
                ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def weight_settings(self, weights_GM: NDArray[np.float64]) -> dict[str, Any]:
        """Return each model's weight as a recipe gives it: a number, or a list of filters."""
        columns = zip(self._inputs[:-1], weights_GM.T.tolist(), strict=True)
        if self._num_groups == 1:
            return {entry.name: weight for entry, (weight,) in columns}
        return {
            entry.name: tuple(
                {"value": weight} if name is None else {"filter": name, "value": weight}
                for names, weight in zip(self._groups, weights_G, strict=True)
                for name in names
            )
            for entry, weights_G in columns
        }

    def score(
        self,
        weights_GM: NDArray[np.float64],
        documents: Sequence[Sequence[int]],
        *,
        prefix: int,
        keep_states: bool = True,
    ) -> list[NDArray[np.float32]]:
        """Return the result of `Scorer.score` for the model with these weights.

        With ``keep_states`` the first layers run once for all calls with the same documents; this
        takes ``4 * hidden_size`` bytes of disk per token.

        Raises:
            ScoringError: a number is not finite.

        """
        self._put(weights_GM)
        evaluation = self._evaluation
        num_layers = self.num_shared_layers if keep_states else 0
        trunk = partial(KeptTrunk, num_layers=num_layers, states=self._states)
        # Set up again for each, so that the probes show whether the cached states are still right.
        with Scorer([self._model], dtype=evaluation.dtype, make_trunk=trunk) as scorer:
            (scores,) = scorer.score(
                documents,
                prefix=prefix,
                max_length=evaluation.max_length,
                stride=evaluation.stride,
                progress=scoring_progress(sum(map(len, documents))),
            )
        if isinstance(scores, MdelError):
            raise scores
        return scores

    def _put(self, weights_GM: NDArray[np.float64]) -> None:
        """Give the model in memory these weights."""
        jobs = self._jobs(self.weight_settings(weights_GM))
        list(self._pool.map(self._merge, [job for job in jobs if job.name in self._changed]))

    def _merge(self, job: TensorJob) -> None:
        import torch

        with torch.no_grad():
            pieces = job.pieces(0, job.num_elements)
            merged = torch.cat([job.method.merge(p, job.settings, None) for p in pieces])
            stored = merged.to(torch_dtype(job.layout.dtype)).reshape(job.layout.shape)
            self._parameters[job.name].copy_(stored)

    def _jobs(self, weights: Mapping[str, Any]) -> list[TensorJob]:
        *models, base = self._sources
        weighted = [_with_weight(source, weights[source.entry.name]) for source in models]
        whole = Part.whole([*weighted, base], has_base=True)
        return list(merge_jobs(self._recipe, whole, piece=_PIECE))

    def _parameter(self, name: str) -> Any:
        try:
            return self._model.get_parameter(name)
        except AttributeError as error:
            raise MergeError(
                f"The tensor {name} is not a parameter of {type(self._model).__name__} as "
                f"transformers loads it, so its candidates cannot be made in memory. Give the "
                f"weights in the recipe and remove mdel.search."
            ) from error


def layer_groups(layers: Layers, changed: Collection[str], *, count: int) -> list[list[str | None]]:
    """Return the filters of ``count`` groups of the layers that ``changed`` tensors lie in.

    Groups are contiguous and about equally large. Input embeddings are in the first group; all
    other tensors outside the layers are in the last, whose last filter is None (everything else).

    Raises:
        MergeError: there are fewer such layers than groups.

    """
    numbers = sorted({n for name in changed if (n := layers.index_of(name)) is not None})
    if not 1 <= count <= max(1, len(numbers)):
        raise MergeError(
            f"mdel.search.layer_groups is {count}, but the models differ in {len(numbers)} layers. "
            f"Lower it to {max(1, len(numbers))} or less."
        )
    groups: list[list[str | None]] = [
        [f"{layers.prefix}{number}." for number in part]
        for part in np.array_split(np.array(numbers, np.int64), count)
    ]
    outside = sorted(name for name in changed if layers.index_of(name) is None)
    groups[0] += [name for name in outside if layers.depth_of(name) == 0.0]
    groups[-1].append(None)
    return groups


def _with_weight(source: Source, weight: Any) -> Source:
    return dataclasses.replace(
        source, entry=dataclasses.replace(source.entry, parameters={"weight": weight})
    )
