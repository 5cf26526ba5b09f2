"""The loss of a causal LM, fused with its output layer.

The logits of a batch never exist all at once: a few hundred rows of hidden states at a time go
through the output layer, and the gradient is computed from their logits at once, in place. This
takes as many matrix products as the plain way, in a fraction of its memory.
"""

import collections
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mdel_assets.training.stored_precision import WideningLinear

if TYPE_CHECKING:
    from torch import Tensor

    from mdel_assets.training.prefix_cache import PrefixCache

# Shapes in names: B blocks, T positions, D hidden width, S predicted tokens, R rows, V vocabulary.
# How many logits exist at once, and how many of these become fp32 at a time: many on a GPU, to keep
# it busy; on a CPU as many as fit into its caches.
_LOGITS_PER_SLICE = collections.defaultdict(lambda: 256 << 20, cpu=48 << 20)
_ROUNDED_AT_ONCE = collections.defaultdict(lambda: 128 << 20, cpu=3 << 20)
_PROBE_TOLERANCE = 1e-4
_LOSS_TOLERANCE = 1e-6


class LanguageModelLoss(nn.Module):
    """A causal LM whose forward pass gives the mean loss of a batch in nats per predicted token.

    If the model's logits are not simply the output layer applied to its hidden states (scaled or
    capped logits), the model's own loss is used. The same is true in training if the model adds a
    term to its loss, such as the router's auxiliary loss of a mixture of experts with
    ``output_router_logits``. Validation losses never include such a term.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.is_fused, self.has_more = _known(model)
        self.prefix: PrefixCache | None = None
        self._logits = Buffer()

    @property
    def can_keep_prefix(self) -> bool:
        """Whether training may use cached states; the model's own loss needs whole passes."""
        return self.is_fused and not self.has_more

    def forward(self, input_ids: "Tensor", block: "Tensor | None" = None) -> dict[str, "Tensor"]:
        """Return ``{"loss": loss}`` for (B, T) ids; each token but the first is predicted.

        ``block`` has the (B,) numbers of the blocks, if states below the first trained layer are
        cached in ``prefix``.
        """
        is_whole = self.has_more and self.model.training
        if is_whole or not self.is_fused:
            own = self.model(input_ids=input_ids, labels=input_ids, use_cache=False)
            whole = is_whole or not self.has_more
            return {"loss": own.loss if whole else _of_predictions(own.logits, input_ids)}
        if self.prefix is not None and block is not None:
            hidden_BTD = self.prefix.hidden(input_ids, block)
        else:
            body = self.model.base_model
            hidden_BTD = body(input_ids=input_ids, use_cache=False).last_hidden_state
        output = self.model.get_output_embeddings()
        hidden_SD = hidden_BTD[:, :-1].flatten(0, 1)
        loss = _FusedLoss.apply(  # type: ignore[no-untyped-call]
            hidden_SD, output.weight, output.bias, input_ids[:, 1:].flatten(), self._logits
        )
        return {"loss": loss}


def _of_predictions(logits_BTV: "Tensor", ids_BT: "Tensor") -> "Tensor":
    """Return the mean loss of every token but the first."""
    return nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), ids_BT[:, 1:].flatten()
    )


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden_SD: "Tensor",
        weight_VD: "Tensor",
        bias_V: "Tensor | None",
        targets_S: "Tensor",
        logits: "Buffer",
    ) -> "Tensor":
        wants_hidden, wants_weight, wants_bias = context.needs_input_grad[:3]
        dtype = _product_dtype()
        weight_VD = weight_VD.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        count, vocabulary = len(hidden_SD), len(weight_VD)
        total = torch.zeros((), dtype=torch.float64, device=hidden_SD.device)
        grad_SD = torch.empty_like(hidden_SD) if wants_hidden else None
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        grad_V = torch.zeros_like(weight_VD[:, 0], dtype=torch.float32) if wants_bias else None
        slice_size = _LOGITS_PER_SLICE[hidden_SD.device.type]
        step = min(count, max(1, slice_size // vocabulary))
        for first in range(0, count, step):
            rows_RD = hidden_SD[first : first + step].to(dtype)
            logits_RV = logits.of(len(rows_RD), vocabulary, like=rows_RD)
            if bias is None:
                torch.mm(rows_RD, weight_VD.T, out=logits_RV)
            else:
                torch.addmm(bias, rows_RD, weight_VD.T, out=logits_RV)
            total += _losses_to_errors(logits_RV, targets_S[first : first + step])
            if grad_SD is not None:
                grad_SD[first : first + step] = logits_RV @ weight_VD
            if grad_VD is not None:
                grad_VD += logits_RV.T @ rows_RD
            if grad_V is not None:
                grad_V += logits_RV.sum(dim=0, dtype=torch.float32)
        context.save_for_backward(grad_SD, grad_VD, grad_V)
        context.count = count
        return (total / count).float()

    @staticmethod
    def backward(context: Any, *grads: Any) -> Any:
        scale = grads[0] / context.count
        return *(None if g is None else g * scale for g in context.saved_tensors), None, None


def _losses_to_errors(logits_RV: "Tensor", targets_R: "Tensor") -> "Tensor":
    """Return the summed loss of some rows; replace their logits by the loss's gradient."""
    total = torch.zeros((), dtype=torch.float64, device=logits_RV.device)
    size = _ROUNDED_AT_ONCE[logits_RV.device.type]
    turn = _turned_in_cache if logits_RV.device.type == "cpu" else _turned_in_one_kernel
    step = max(1, size // logits_RV.shape[1])
    for first in range(0, len(logits_RV), step):
        losses_R1 = turn(logits_RV[first : first + step], targets_R[first : first + step, None])
        total += losses_R1.double().sum()
    return total


def _turned_in_cache(logits_RV: "Tensor", targets_R1: "Tensor") -> "Tensor":
    """Return each row's loss, and turn its logits into errors, in an fp32 copy."""
    errors_RV = logits_RV.float()
    highest_R1 = errors_RV.amax(dim=1, keepdim=True)
    chosen_R1 = errors_RV.gather(1, targets_R1) - highest_R1
    sums_R1 = errors_RV.sub_(highest_R1).exp_().sum(dim=1, keepdim=True)
    errors_RV.div_(sums_R1)
    errors_RV.scatter_add_(1, targets_R1, torch.full_like(sums_R1, -1.0))
    logits_RV.copy_(errors_RV)
    return sums_R1.log() - chosen_R1


def _turned_in_one_kernel(logits_RV: "Tensor", targets_R1: "Tensor") -> "Tensor":
    """Do the same with the library's softmax, which reads a GPU's memory least often.

    The likeliest word's probability is 1 / sum(exp(logit - highest)).
    """
    highest_R1, likeliest_R1 = logits_RV.max(dim=1, keepdim=True)
    chosen_R1 = logits_RV.gather(1, targets_R1).float() - highest_R1.float()
    errors_RV = torch.softmax(logits_RV, dim=1, dtype=torch.float32)
    losses_R1 = -errors_RV.gather(1, likeliest_R1).log() - chosen_R1
    errors_RV.scatter_add_(1, targets_R1, torch.full_like(losses_R1, -1.0))
    logits_RV.copy_(errors_RV)
    return losses_R1


class Buffer:
    """A reused buffer for a slice's logits: fresh memory costs a tenth of a product."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def of(self, rows: int, columns: int, *, like: "Tensor") -> "Tensor":
        """Return an uninitialised (rows, columns) tensor with dtype and device of ``like``."""
        room = self._room
        if (
            room is None
            or room.numel() < rows * columns
            or (room.dtype, room.device) != (like.dtype, like.device)
        ):
            self._room = room = like.new_empty(rows * columns)
        return room[: rows * columns].view(rows, columns)


def _product_dtype() -> torch.dtype:
    """Return the dtype of matrix products: autocast's, if it is on."""
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return torch.float32


# The probe's findings on models in memory.
_found: "weakref.WeakKeyDictionary[nn.Module, tuple[bool, bool]]" = weakref.WeakKeyDictionary()


def _known(model: Any) -> tuple[bool, bool]:
    """Return the cached result of `_probe`."""
    if model not in _found:
        _found[model] = _probe(model)
    return _found[model]


def _probe(model: Any) -> tuple[bool, bool]:
    """Test a model with a pass over a few tokens.

    Return whether the output layer of the hidden states gives the model's own logits, and whether
    the model's own loss is more than that of its predictions.
    """
    output = model.get_output_embeddings()
    rows = model.get_input_embeddings().weight.shape[0]
    ids_BT = torch.arange(16, device=model.device)[None] % rows
    seen: list[Tensor] = []
    handle = model.base_model.register_forward_hook(
        lambda _module, _inputs, found: seen.append(found[0])
    )
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            own = model(input_ids=ids_BT, labels=ids_BT, use_cache=False)
            more = (own.loss - _of_predictions(own.logits, ids_BT)).abs()
            has_more = bool(more > _LOSS_TOLERANCE * own.loss.abs())
            is_linear = type(output) in (nn.Linear, WideningLinear)
            if not is_linear or model.base_model is model or not seen:
                return False, has_more
            split = output(seen[0])
    finally:
        handle.remove()
        model.train(was_training)
    scale = own.logits.abs().max() + 1e-6
    return bool((split - own.logits).abs().max() <= _PROBE_TOLERANCE * scale), has_more
