"""Linear merge: the weighted mean of models, also called a model soup.

Paper: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time".

Steps: sum each model's tensor times its weight, in the recipe's order and in fp32; with
``normalize`` divide by the sum of the weights. Limits: the models must share their shapes, and in
practice an ancestor; far apart, their mean is worse than any of them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def linear(
    tensors: "Sequence[torch.Tensor]", *, weights: Sequence[float], normalize: bool
) -> "torch.Tensor":
    """Return the weighted sum of equal-shaped ``tensors`` in fp32, or their weighted mean."""
    import torch

    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.addcmul_(tensor.to(torch.float32), torch.tensor(weight, dtype=torch.float32))
    return total / torch.tensor(weights, dtype=torch.float32).sum() if normalize else total
