"""One tensor of several models merged in memory, by any method: for a notebook, and for tests."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.experiment.merge_recipe import refuse_out_of_bounds
from mdel_assets.merge_methods import METHODS
from mdel_assets.merge_methods.method import Piece, TensorSettings

if TYPE_CHECKING:
    import torch


def merge_tensors(
    method_name: str,
    tensors: "Sequence[torch.Tensor]",
    *,
    base: "torch.Tensor | None" = None,
    name: str = "tensor",
    piece_elements: int | None = None,
    seed: int = 0,
    rescale_by: Literal["l1", "density"] = "l1",
    **parameters: Any,
) -> "torch.Tensor":
    """Return ``tensors``, all of one shape, merged in fp32.

    ``parameters`` are those of a recipe; a per-model parameter may be a sequence. ``rescale_by`` is
    a recipe's ``mdel.rescale``. The result does not depend on ``piece_elements``.

    Raises:
        MergeError: a value out of its bounds, or weights that cancel.
        UnknownKeyError: a method or parameter that does not exist.

    """
    import torch

    settings = _settings(method_name, tensors, parameters, name, seed, rescale_by)
    method = METHODS[method_name]
    flat = [tensor.to(torch.float32).reshape(-1) for tensor in tensors]
    flat_base = base.to(torch.float32).reshape(-1) if base is not None else None
    size = flat[0].numel()
    step = piece_elements or max(1, size)
    if method.needs_rows and method.needs_rows(settings):
        step = max(1, step // settings.row_length) * settings.row_length

    def pieces() -> Iterator[Piece]:
        for first in range(0, size, step):
            part = slice(first, min(first + step, size))
            own_base = flat_base[part] if flat_base is not None else None
            yield Piece(own_base, [tensor[part] for tensor in flat], first)

    measured = method.measure(pieces, settings) if method.measure else None
    merged = [method.merge(piece, settings, measured) for piece in pieces()]
    return torch.cat([*merged, flat[0][:0]]).reshape(tensors[0].shape)


def _settings(
    method_name: str,
    tensors: "Sequence[torch.Tensor]",
    parameters: dict[str, Any],
    name: str,
    seed: int,
    rescale_by: Literal["l1", "density"],
) -> TensorSettings:
    if method_name not in METHODS:
        raise UnknownKeyError(unknown_name_message("merge_method", method_name, sorted(METHODS)))
    known = METHODS[method_name].parameters
    for key in parameters:
        if key not in known:
            raise UnknownKeyError(unknown_name_message("parameter", key, known))
    of_models: dict[str, tuple[float, ...]] = {}
    shared: dict[str, Any] = {}
    for key, parameter in known.items():
        value = parameters.get(key, parameter.default)
        if not parameter.per_model:
            refuse_out_of_bounds(f"'{key}'", parameter, value)
            shared[key] = value
            continue
        values: list[Any] = list(value) if isinstance(value, Sequence) else [value] * len(tensors)
        of_models[key] = tuple(values)
        for one in values:
            refuse_out_of_bounds(f"'{key}'", parameter, one)
    return TensorSettings(
        name=name,
        shape=tuple(tensors[0].shape),
        models=tuple(str(number) for number in range(len(tensors))),
        of_models=of_models,
        shared=shared,
        seed=seed,
        rescale=rescale_by,
    )
