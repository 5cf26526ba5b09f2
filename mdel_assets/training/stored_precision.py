"""Keep weights in the half precision in which they are stored, and widen them on use.

Products, sums and everything else equal those of fp32 to the bit, because every half-precision
number is an fp32 number; the weights take half the memory. Trained weights are widened permanently.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mdel_assets.errors import MdelError
from mdel_assets.store.tensor_files import TensorFolder, is_float
from mdel_assets.training.model_files import load_model

_HALVES = {"F16": "float16", "BF16": "bfloat16"}


class WideningLinear(nn.Linear):
    """A linear layer that multiplies in fp32, or as autocast has it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
        """Return the products of (..., D) inputs."""
        if torch.is_autocast_enabled(input.device.type):
            return functional.linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        if self.weight.dtype == torch.float32 or not input.requires_grad:
            return functional.linear(input, self.weight.float(), bias)
        return _WideningProduct.apply(input, self.weight, bias)  # type: ignore[no-any-return,no-untyped-call]


class _WideningProduct(torch.autograd.Function):
    """The product of a frozen layer, which widens its weights again for the gradient.

    Autograd would keep the widened weights from the forward pass to the backward pass.
    """

    @staticmethod
    def forward(
        context: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        context.save_for_backward(weight)
        return functional.linear(inputs, weight.float(), bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = context.saved_tensors
        (gradient,) = gradients
        found = gradient.flatten(0, -2) @ weight.float()
        return found.unflatten(0, gradient.shape[:-1]), None, None


class WideningEmbedding(nn.Embedding):
    """An embedding that answers in fp32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
        """Return the vectors of ids."""
        return super().forward(input).float()


_OWN_WAY: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: WideningLinear,
    nn.Embedding: WideningEmbedding,
}


def load_in_fp32(source: str | Path) -> Any:
    """Return the causal LM at ``source`` with all of its weights in fp32."""
    return leaving_weights_alone(load_model(source, dtype="float32"))


def leaving_weights_alone(model: Any) -> Any:
    """Return ``model``, which halves no weights in place for evaluation (RWKV's ``rescale_every``).

    That is for the range of fp16: here sums are fp32's, and weights are read after evaluations.
    """
    if getattr(model.config, "rescale_every", 0):
        model.config.rescale_every = 0
    return model


def load_to_compute_in_fp32(source: str | Path) -> Any:
    """Return the causal LM at ``source``, computing in fp32 with as little memory as possible.

    Weights stay in half precision only on a CPU, and only if all numbers in the files have the same
    half precision. Otherwise, and for models with half-precision numbers besides their weights,
    every weight is fp32.

    Raises:
        TrainingError: as `load_model`.

    """
    half = _kept_half(Path(source))
    if half is None:
        return load_in_fp32(source)
    model = leaving_weights_alone(load_model(source, dtype=half))
    if any(buffer.dtype == getattr(torch, half) for buffer in model.buffers()):
        del model
        return load_in_fp32(source)
    widen_where_used(model)
    return model


def bytes_per_weight(source: str | Path) -> int:
    """Return the bytes that `load_to_compute_in_fp32` keeps of most weights: 2 or 4."""
    return 2 if _kept_half(Path(source)) else 4


def widen_where_used(model: Any) -> None:
    """Let linear layers and embeddings widen their weights on use; widen all other weights."""
    kept: set[int] = set()
    for module in model.modules():
        if type(module) in _OWN_WAY:
            module.__class__ = _OWN_WAY[type(module)]
            kept |= {id(parameter) for parameter in module.parameters(recurse=False)}
    _widen(model, except_for=kept)
    _widen(model, except_for=kept - weights_read_directly(model))


def _widen(model: Any, *, except_for: set[int]) -> None:
    for parameter in model.parameters():
        if id(parameter) not in except_for:
            parameter.data = parameter.data.float()


def weights_read_directly(model: Any) -> set[int]:
    """Return the ids of weights that are read outside their own layers, as in Mamba.

    A pass over two tokens finds them. Such a reader gets fp32 values during the pass.
    """
    found: set[int] = set()
    kinds: dict[type[nn.Module], type[nn.Module]] = {
        kind: _watched(kind, found)
        for kind in (nn.Linear, nn.Embedding, WideningLinear, WideningEmbedding)
    }
    own = {module: type(module) for module in model.modules() if type(module) in kinds}
    ids_BT = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    for module, kind in own.items():
        module.__class__ = kinds[kind]
    try:
        with torch.inference_mode():
            model(input_ids=ids_BT, use_cache=False)
    finally:
        for module, kind in own.items():
            module.__class__ = kind
    return found


def _watched(kind: Any, found: set[int]) -> Any:
    """Return a subclass of a layer's class that notes other readers of a layer's weight."""
    running: set[int] = set()

    class Watched(kind):  # type: ignore[misc]
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
            running.add(id(self))
            try:
                return super().forward(input)  # type: ignore[no-any-return]
            finally:
                running.discard(id(self))

        def __getattr__(self, name: str) -> Any:
            value = super().__getattr__(name)
            if name != "weight" or id(self) in running:
                return value
            found.add(id(value))
            return value.float()

    return Watched


def widen_trained(model: Any) -> None:
    """Permanently widen the weights that require a gradient."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _kept_half(folder: Path) -> str | None:
    """Return torch's name of the half precision in which weights stay; None for fp32."""
    return None if torch.cuda.is_available() else _stored_half(folder)


def _stored_half(folder: Path) -> str | None:
    """Return torch's name of the half precision that all numbers of a folder's files have."""
    try:
        dtypes = set(TensorFolder(folder).dtypes.values())
    except (MdelError, OSError):
        return None
    stored = {dtype for dtype in dtypes if is_float(dtype)}
    return _HALVES.get(stored.pop()) if len(stored) == 1 else None
