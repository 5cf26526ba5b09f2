"""A merge method: a row of `METHODS`, and the values that it works on.

A method sees one tensor of all models at a time, in pieces, so that memory does not grow with the
model. If it must know the whole tensor first (a threshold, a norm), its ``measure`` goes through
the pieces, once or more, before ``merge`` is called for each of them.

Shapes: E elements of a piece, M models besides the base.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter that a recipe may set: for each model, or once for all.

    ``default`` is None if the recipe must set it. ``low`` and ``high`` bound its values.
    """

    default: float | bool | None
    per_model: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value."""
        low, high = self.low, self.high
        return -math.inf if low is None else low, math.inf if high is None else high

    def allows(self, value: float) -> bool:
        """Whether ``value`` lies in the bounds."""
        low, high = self.bounds
        return low <= value <= high


@dataclasses.dataclass(frozen=True)
class TensorSettings:
    """A tensor's name and shape, and the values of the recipe's parameters for it.

    ``models`` names the models without the base, in order. ``of_models`` maps a per-model parameter
    to the models' values; ``shared`` maps the others to one value. ``rescale`` says what rescaling
    preserves.
    """

    name: str
    shape: tuple[int, ...]
    models: tuple[str, ...]
    of_models: Mapping[str, tuple[float, ...]]
    shared: Mapping[str, Any]
    seed: int = 0
    rescale: Literal["l1", "density"] = "l1"

    @property
    def weights(self) -> tuple[float, ...]:
        """The models' weights."""
        return self.of_models["weight"]

    @property
    def row_length(self) -> int:
        """Elements along the last axis; a scalar is a row of one."""
        return self.shape[-1] if self.shape else 1


@dataclasses.dataclass(frozen=True)
class Piece:
    """Elements of one tensor, of all models, flat and in fp32; ``first`` is their place in it.

    ``tensors`` may read each of its tensors on demand: iterate over it once, in order.
    """

    base_E: "torch.Tensor | None"
    tensors: "Sequence[torch.Tensor]"
    first: int

    @property
    def base(self) -> "torch.Tensor":
        """The base's elements, for methods that require one."""
        assert self.base_E is not None
        return self.base_E

    def task_vectors(self) -> "list[torch.Tensor]":
        """Return each model's elements minus the base's."""
        return [tensor - self.base for tensor in self.tensors]


Pieces = Callable[[], Iterator[Piece]]


def _always(settings: TensorSettings) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class MergeMethod:
    """One way to merge.

    ``merge`` returns the merged elements of a piece, given the result of ``measure`` for the
    tensor. ``base`` says whether the method takes a base. ``min_models`` and ``max_models`` count
    models without the base. ``keeps_equal`` says whether a tensor that all models and the base
    share stays unchanged. ``needs_rows`` requests pieces of whole rows. ``spreads_non_finite``
    promises that a NaN or infinity in an input gives one in the output, ``reads_one_by_one`` that
    only one model's elements are held at a time.
    """

    merge: "Callable[[Piece, TensorSettings, Any], torch.Tensor]"
    parameters: Mapping[str, Parameter]
    measure: Callable[[Pieces, TensorSettings], Any] | None = None
    base: Literal["required", "optional", "refused"] = "required"
    min_models: int = 1
    max_models: int | None = None
    keeps_equal: Callable[[TensorSettings], bool] = _always
    needs_rows: Callable[[TensorSettings], bool] | None = None
    spreads_non_finite: bool = False
    reads_one_by_one: bool = False


WEIGHT = Parameter(1.0, per_model=True)
DENSITY = Parameter(1.0, per_model=True, low=0.0, high=1.0)
