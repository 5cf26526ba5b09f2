"""Merge by streaming over safetensors: no model class, no architecture, little memory.

Names, shapes, dtypes and tokenizers are compared before anything is written. A tensor that all
inputs share is copied. Any other tensor is read in pieces from all inputs, merged in fp32 by
threads, and written to its place in the output. The bytes do not depend on pieces, threads or
shards.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.experiment.merge_recipe import MergeRecipe, refuse_wrong_number, settings_for
from mdel_assets.machine.progress import Progress
from mdel_assets.merge_methods.method import TensorSettings
from mdel_assets.merging.chat_template import (
    chat_template,
    refuse_missing_tokenizer,
    write_chat_template,
)
from mdel_assets.merging.members import Members
from mdel_assets.merging.opening import open_sources
from mdel_assets.merging.process import set_up_for_streaming
from mdel_assets.merging.slices import Part, parts_of, write_layers
from mdel_assets.merging.sources import MergeInput, Source, refuse_differences
from mdel_assets.merging.tensor_job import TensorJob
from mdel_assets.merging.united_tokenizer import united_tokenizer
from mdel_assets.merging.vocabulary_rows import with_vocabulary
from mdel_assets.store.carry_over import carry_over
from mdel_assets.store.tensor_files import bytes_of, is_float, stored_dtype, torch_dtype
from mdel_assets.store.tensor_writer import TensorLayout, TensorWriter

if TYPE_CHECKING:
    import torch

# The memory of all threads' pieces together, and a piece's largest size in elements. Importing
# torch alone takes 220 MiB of the 300 that a merge may take.
_BUFFERS_BYTES = 12 << 20
_LARGEST_PIECE = 1 << 19
_SPAN_PIECES = 16
_MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """The merged model as saved.

    ``num_copied_tensors`` were equal in all inputs. ``non_finite`` names tensors with merged values
    that the output's dtype cannot represent.
    """

    num_tensors: int
    num_copied_tensors: int
    num_parameters: int
    size_bytes: int
    non_finite: list[str]


def merge_models(
    recipe: MergeRecipe,
    inputs: Sequence[MergeInput],
    folder: Path,
    *,
    model_folder: Path,
    base: MergeInput | None = None,
    members: Members | None = None,
    num_threads: int | None = None,
    largest_piece: int = _LARGEST_PIECE,
) -> MergeResult:
    """Merge ``inputs`` by ``recipe`` and write the model into ``folder``, for transformers to load.

    ``base`` is the model that task vectors start from, and not one of ``inputs``. If the recipe has
    slices or a tokenizer, ``members`` are the models in the order of ``inputs``, the base last.
    Configuration, generation config and, unless the recipe has another, tokenizer are those in
    ``model_folder``.

    Raises:
        MergeError: the models differ in tensors, shapes, dtypes or tokenizer (all differences are
            named); their tokenizers cannot be united; their number is wrong; weights cancel; or an
            input holds a NaN or infinity.

    """
    slices = members.slices if members else ()
    located = [*inputs, *([base] if base else [])]
    names = [member.name for member in members] if members else []
    places = dict(zip(names, [entry.folder for entry in located], strict=bool(names)))
    united = united_tokenizer(members, places, [e.adapter for e in located]) if members else None
    tokenizer_folder = None if united else model_folder
    template = _chat_template(recipe, located, tokenizer_folder, has_base=base is not None)
    if not slices:
        refuse_wrong_number(recipe, [entry.name for entry in inputs])
    num_threads = num_threads or default_threads()
    jobs: list[TensorJob] = []
    with set_up_for_streaming(), open_sources(located, model_folder=model_folder) as sources:
        if slices:
            parts = list(parts_of(slices, dict(zip(names, sources, strict=True))))
        else:
            parts = [Part.whole(sources, has_base=base is not None)]
        if united:
            parts = [with_vocabulary(part, united, is_first=part is parts[0]) for part in parts]
        for part in parts:
            _refuse_wrong_part(recipe, part, tokenizer_folder=tokenizer_folder)
            piece = piece_size(
                recipe, num_models=len(part.sources), num_threads=num_threads, largest=largest_piece
            )
            jobs += merge_jobs(recipe, part, piece=piece)
        limit = recipe.mdel.max_shard_mib
        max_bytes = limit * 2**20 if limit else None
        result = run_jobs(jobs, folder, num_threads=num_threads, max_shard_bytes=max_bytes)
    dtype = recipe.dtype_of_output
    carry_over(model_folder, folder, dtype=dtype, with_tokenizer=united is None)
    if united:
        united.write(folder, model_folder=model_folder)
    if template:
        write_chat_template(folder, template)
    if slices:
        write_layers(folder, slices, places)
    return result


def _chat_template(
    recipe: MergeRecipe,
    inputs: Sequence[MergeInput],
    tokenizer_folder: Path | None,
    *,
    has_base: bool,
) -> str | None:
    """Return the merged model's template, if the recipe gives it one.

    Raises:
        MergeError: the tokenizer is that in ``tokenizer_folder``, and there is none.

    """
    if recipe.chat_template is None:
        return None
    if tokenizer_folder:
        refuse_missing_tokenizer(tokenizer_folder)
    ordered = [*inputs[-1:], *inputs[:-1]] if has_base else inputs
    return chat_template(recipe.chat_template, [entry.folder for entry in ordered])


def _refuse_wrong_part(recipe: MergeRecipe, part: Part, *, tokenizer_folder: Path | None) -> None:
    """Raise `MergeError` where a part has a wrong number of models, or they do not fit."""
    models = part.sources[:-1] if part.has_base else part.sources
    base = part.sources[-1].entry.name if part.has_base else None
    refuse_wrong_number(recipe, [source.entry.name for source in models], base=base)
    refuse_differences(
        part.sources,
        tokenizer_folder=tokenizer_folder,
        dtypes_may_differ=recipe.dtype_of_output is not None,
    )


def default_threads() -> int:
    """Return how many threads a merge has where nobody says it."""
    return min(_MAX_THREADS, os.cpu_count() or 1)


def piece_size(
    recipe: MergeRecipe, *, num_models: int, num_threads: int, largest: int = _LARGEST_PIECE
) -> int:
    """Return how many elements a piece has, so that all threads' pieces fit their memory.

    For an element, a method that reads models one by one holds five numbers (a model's as stored
    and in fp32, the sum, the result, and that as written); others, three of each model and some
    sums.
    """
    num_held = 5 if recipe.method.reads_one_by_one else 3 * num_models + 4
    fitting = _BUFFERS_BYTES // num_threads // (4 * num_held)
    return max(1, min(largest, max(1024, fitting // 1024 * 1024)))


def run_jobs(
    jobs: Sequence[TensorJob],
    folder: Path,
    *,
    num_threads: int,
    max_shard_bytes: int | None = None,
    given: "Mapping[TensorLayout, torch.Tensor] | None" = None,
) -> MergeResult:
    """Write what ``jobs`` make, and the tensors that are ``given`` whole, as weights in ``folder``.

    Raises:
        MergeError: as `TensorJob` does.

    """
    given = given or {}
    layouts = [*(job.layout for job in jobs), *given]
    with (
        TensorWriter(folder, layouts, max_shard_bytes=max_shard_bytes) as writer,
        ThreadPoolExecutor(num_threads) as pool,
    ):
        for layout, tensor in given.items():
            writer.write(layout.name, bytes_of(tensor.to(torch_dtype(layout.dtype))), offset=0)
        num_copied, non_finite = _run(jobs, writer, pool)
    return MergeResult(
        num_tensors=len(layouts),
        num_copied_tensors=num_copied,
        num_parameters=sum(math.prod(layout.shape) for layout in layouts),
        size_bytes=writer.size_bytes,
        non_finite=non_finite,
    )


def merge_jobs(recipe: MergeRecipe, part: Part, *, piece: int) -> Iterator[TensorJob]:
    """Yield a job for each tensor of ``part``.

    ``piece`` is how many elements a job holds of each model at a time.
    """
    models = part.sources[:-1] if part.has_base else part.sources
    base = part.sources[-1] if part.has_base else None
    entries = [(source.entry.name, source.entry.parameters) for source in models]
    for name, stored_name in part.stored_names.items():
        stored = models[0].stored(name)
        settings = settings_for(
            recipe,
            entries,
            name=name,
            shape=stored.shape,
            depth=part.depths[name],
            of_slice=part.parameters,
        )
        counting = _counting_models(recipe, settings, has_base=part.has_base)
        own_settings = _only(settings, counting, models)
        step = piece
        if recipe.method.needs_rows and recipe.method.needs_rows(own_settings):
            step = max(1, piece // settings.row_length) * settings.row_length
        changed = recipe.dtype_of_output if is_float(stored.dtype) else None
        read = [*(models[index] for index in counting), *([base] if base else [])]
        yield TensorJob(
            name=name,
            layout=TensorLayout(
                stored_name, stored.shape, stored_dtype(changed) if changed else stored.dtype
            ),
            method=recipe.method,
            settings=own_settings,
            models=tuple(models[index] for index in counting),
            base=base,
            step=step,
            is_known_equal=_are_known_equal(read, name),
        )


def _are_known_equal(sources: Sequence[Source], name: str) -> bool:
    """Whether every model has the seed's tensor by its record: that of the same layer."""
    is_same_layer = len({source.own_names[name] for source in sources}) == 1
    return is_same_layer and all(source.is_frozen(name) for source in sources)


def _counting_models(recipe: MergeRecipe, settings: TensorSettings, *, has_base: bool) -> list[int]:
    """Return the models that a tensor depends on; models with weight zero are not even read."""
    everyone = range(len(settings.models))
    weights = settings.of_models.get("weight")
    if weights is None or recipe.method.max_models is not None:
        return list(everyone)
    counting = [index for index in everyone if weights[index] != 0]
    return counting if counting or has_base else list(everyone)


def _only(
    settings: TensorSettings, counting: Sequence[int], models: Sequence[Source]
) -> TensorSettings:
    """Return the settings of these models, with their names for random draws."""
    entries = [models[index].entry for index in counting]
    return dataclasses.replace(
        settings,
        models=tuple(entry.digest or entry.name for entry in entries),
        of_models={
            key: tuple(values[index] for index in counting)
            for key, values in settings.of_models.items()
        },
    )


def _run(
    jobs: Sequence[TensorJob], writer: TensorWriter, pool: ThreadPoolExecutor
) -> tuple[int, list[str]]:
    """Do all jobs; return how many tensors were copied, and the names of non-finite ones."""
    ordered = sorted(jobs, key=lambda job: -job.num_elements)
    is_copied = dict(
        zip(
            [job.layout.name for job in ordered],
            _collect([pool.submit(job.is_copied) for job in ordered]),
            strict=True,
        )
    )
    tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    names: list[str] = []
    for job in ordered:
        if is_copied[job.layout.name]:
            spans: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(job.copy, (writer,))]
        else:
            spans = [(job.merge, (writer, *span)) for span in _spans(job)]
        tasks += spans
        names += [job.layout.name] * len(spans)
    outcomes = _collect([pool.submit(task, *arguments) for task, arguments in tasks], report=True)
    bad = {name for name, outcome in zip(names, outcomes, strict=True) if outcome is False}
    return sum(is_copied.values()), sorted(bad)


def _spans(job: TensorJob) -> Iterator[tuple[int, int]]:
    """Yield the parts in which a tensor is merged; a tensor that is measured first is one part."""
    size = job.num_elements
    span = max(1, size) if job.method.measure else job.step * _SPAN_PIECES
    for first in range(0, size, span):
        yield first, min(first + span, size)


def _collect(futures: Sequence[Future[Any]], *, report: bool = False) -> list[Any]:
    """Return the futures' results in order; on an error cancel those that have not begun."""
    total = len(futures)
    progress = Progress(lambda p: f"merging: {p.done:.0f} of {total} parts", total=total)
    try:
        for future in as_completed(futures):
            future.result()
            if report:
                progress.add(1)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]
