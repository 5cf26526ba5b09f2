"""Merging by streaming over safetensors: no model class, no architecture, little memory.

Names, shapes, tokenizers are compared before anything is written. Then each tensor is read in
slices from all inputs, merged in fp32, and written to its place in one output file.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mdel_assets.errors import MergeError
from mdel_assets.merging.linear import linear
from mdel_assets.tensor_files import WEIGHTS_NAME, TensorFolder, TensorWriter

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_SLICE_ELEMENTS = 4 << 20
_SHOWN_DIFFERENCES = 12
_DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# GPT-NeoX's output layer has had two names in transformers: they are one tensor.
_OTHER_NAMES = {"embed_out.weight": "lm_head.weight"}
_MODEL_FILES_LEFT_BEHIND = {"record.json", "model.safetensors.index.json"}


@dataclasses.dataclass(frozen=True)
class MergeInput:
    """One model of a merge: how messages name it, where it lies, its weight."""

    name: str
    folder: Path
    weight: float


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """The merged model as saved. ``non_finite`` names tensors with an infinity or NaN."""

    num_tensors: int
    num_parameters: int
    size_bytes: int
    non_finite: list[str]


def merge_linear(
    inputs: Sequence[MergeInput],
    folder: Path,
    *,
    base_folder: Path,
    normalize: bool = True,
    dtype: str | None = None,
) -> MergeResult:
    """Write the linear merge of ``inputs`` into ``folder``, as a model that transformers loads.

    Config, generation config and tokenizer are those of ``base_folder``, the seed. ``dtype``
    (``float32``, ``float16``, ``bfloat16``) is the output's; by default the first input's.

    Raises:
        MergeError: models that differ in tensors, shapes or tokenizer, every difference named;
            weights that sum to zero; a NaN or infinity in an input, its tensor named.

    """
    weights = [entry.weight for entry in inputs]
    if normalize and math.isclose(sum(weights), 0.0, abs_tol=1e-12):
        raise MergeError(f"The weights {weights} sum to zero and cannot be normalized.")
    with ExitStack() as stack:
        sources = [stack.enter_context(TensorFolder(entry.folder)) for entry in inputs]
        names = [_common_names(source) for source in sources]
        refuse_differences(inputs, sources, names)
        _refuse_other_tokenizers(inputs, base_folder)
        first = sources[0]
        dtypes = {
            name: _DTYPE_NAMES[dtype]
            if dtype and first.dtypes[own].startswith(("F", "B"))
            else first.dtypes[own]
            for name, own in names[0].items()
        }
        shapes = {own: first.shapes[own] for own in names[0].values()}
        out_dtypes = {own: dtypes[name] for name, own in names[0].items()}
        with TensorWriter(folder / WEIGHTS_NAME, shapes, out_dtypes) as writer:
            for name, own in names[0].items():
                for first_row, last_row in _slices(shapes[own]):
                    tensors = [
                        source.read_rows(own_names[name], first_row, last_row)
                        if last_row
                        else source.read(own_names[name])
                        for source, own_names in zip(sources, names, strict=True)
                    ]
                    _refuse_non_finite(name, inputs, tensors)
                    merged = linear(tensors, weights=weights, normalize=normalize)
                    writer.append(own, merged.to(_torch_dtype(out_dtypes[own])))
        size = writer.size_bytes
    _carry_over(base_folder, folder, dtype)
    return MergeResult(
        num_tensors=len(shapes),
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        size_bytes=size,
        non_finite=non_finite_tensors(folder),
    )


def refuse_differences(
    inputs: Sequence[MergeInput],
    sources: Sequence[TensorFolder],
    names: Sequence[dict[str, str]],
) -> None:
    """Raise `MergeError` with every tensor and shape in which a model differs from the first."""
    found: list[str] = []
    for entry, source, own in zip(inputs[1:], sources[1:], names[1:], strict=True):
        for name in sorted({*names[0], *own}):
            if name not in own:
                found.append(f"{entry.name} lacks {name}")
            elif name not in names[0]:
                found.append(f"{inputs[0].name} lacks {name}, which {entry.name} has")
            elif source.shapes[own[name]] != sources[0].shapes[names[0][name]]:
                found.append(
                    f"{name} is {list(sources[0].shapes[names[0][name]])} in {inputs[0].name}, "
                    f"{list(source.shapes[own[name]])} in {entry.name}"
                )
    if found:
        more = len(found) - _SHOWN_DIFFERENCES
        shown = "; ".join(found[:_SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise MergeError(
            f"These models cannot be merged: {shown}. Merge only experts of the same seed model: "
            f"train those that are of another one again."
        )


def non_finite_tensors(folder: Path) -> list[str]:
    """Return the names of the tensors in ``folder`` that hold a NaN or an infinity."""
    import torch

    with TensorFolder(folder) as source:
        return [
            name
            for name, shape in source.shapes.items()
            if source.dtypes[name].startswith(("F", "B"))
            and not all(
                bool(
                    torch.isfinite(
                        source.read_rows(name, *rows) if rows[1] else source.read(name)
                    ).all()
                )
                for rows in _slices(shape)
            )
        ]


def _common_names(source: TensorFolder) -> dict[str, str]:
    """Map each tensor's common name to the name that this model stores it under."""
    return {_OTHER_NAMES.get(name, name): name for name in source.shapes}


def _slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) rows of at most `_SLICE_ELEMENTS` elements; (0, 0) means all."""
    if not shape or 0 in shape:
        yield 0, 0
        return
    step = max(1, _SLICE_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], step):
        yield first, min(first + step, shape[0])


def _refuse_non_finite(name: str, inputs: Sequence[MergeInput], tensors: Sequence[object]) -> None:
    import torch

    for entry, tensor in zip(inputs, tensors, strict=True):
        if not bool(torch.isfinite(tensor).all()):  # type: ignore[arg-type]
            raise MergeError(
                f"{entry.name} holds a NaN or infinity in {name}. Train it again, or take it out "
                f"of the recipe."
            )


def _refuse_other_tokenizers(inputs: Sequence[MergeInput], base_folder: Path) -> None:
    base = _vocabulary(base_folder)
    for entry in inputs:
        if _vocabulary(entry.folder) != base:
            raise MergeError(
                f"{entry.name} has another tokenizer vocabulary than the seed model. Merge only "
                f"experts of the same seed model."
            )


def _vocabulary(folder: Path) -> object:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8"))
    return content.get("model", {}).get("vocab"), content.get("added_tokens")


def _torch_dtype(name: str) -> "torch.dtype":
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
    }[name]


def _carry_over(base_folder: Path, folder: Path, dtype: str | None) -> None:
    """Copy everything that is not weights or record, and note the dtype where it changed."""
    for path in sorted(base_folder.iterdir()):
        if (
            path.is_file()
            and path.suffix != ".safetensors"
            and path.name not in _MODEL_FILES_LEFT_BEHIND
        ):
            shutil.copyfile(path, folder / path.name)
    if dtype:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config["dtype"] = dtype
        (folder / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8"
        )
