"""Scoring in bfloat16: the matrix products of linear layers, and nothing else.

Weights of linear layers are stored in bfloat16 and their inputs rounded to it; the residual stream,
norms, attention weights and softmax stay fp32. Rounding errors of tokens then nearly cancel over a
text, which they do not if the residual stream itself is bfloat16. Scoring on a GPU uses autocast:
there the output of such a layer stays bfloat16 until it is added to the residual stream, because
attention in fp32 would take longer than everything else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def halve_linear_layers(model: Any, *, read: set[int] | None = None) -> None:
    """Let every linear layer of ``model`` but the output layer multiply in bfloat16, in place.

    A layer with weights that other modules read, too, stays unchanged. ``read`` are the ids of
    those weights; without it, a pass over two tokens finds them.
    """
    import torch
    from torch.nn import functional

    from mdel_assets.training.stored_precision import WideningLinear, weights_read_directly

    class HalfLinear(torch.nn.Linear):
        """A linear layer that multiplies in bfloat16 and returns fp32, or autocast's dtype."""

        def forward(self, input: "torch.Tensor") -> "torch.Tensor":  # noqa: A002  (torch's name)
            product = functional.linear(input.to(self.weight.dtype), self.weight, self.bias)
            is_cast = torch.is_autocast_enabled(product.device.type)
            return product if is_cast else product.float()

    output = model.get_output_embeddings()
    if read is None:
        read = weights_read_directly(model)
    for module in model.modules():
        is_linear = type(module) in (torch.nn.Linear, WideningLinear) and module is not output
        if is_linear and id(module.weight) not in read:
            module.__class__ = HalfLinear
            module.to(torch.bfloat16)
