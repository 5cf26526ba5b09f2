"""The output layer that several models have in common: one product for the hidden states of all.

A step has a few rows for each model, and an output layer is often half of what it reads. Joined,
the layer is read once, and the product is large enough to be quick.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mdel_assets.scoring.shared_trunk import same_tensors

# The numbers that one product gives at most: 64 MiB.
_NUMBERS_AT_ONCE = 16 << 20

# Shapes in names: B sequences, C positions, D width, V vocabulary.


class SharedHead:
    """Takes the output layer out of ``models``, whose logits are their hidden states from then on.

    `put_back` undoes it.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self._models = models
        self._own = [model.get_output_embeddings() for model in models]
        for model, own in zip(models, self._own, strict=True):
            _replace(model, own, _Through())

    @classmethod
    def of(cls, models: Sequence[Any], ids_BT: torch.Tensor) -> "SharedHead | None":
        """Return the layer that all models have, tried on some ids; None where there is none."""
        heads = [model.get_output_embeddings() for model in models]
        if any(type(head) is not type(heads[0]) or head is None for head in heads):
            return None
        first, *others = (dict(head.named_parameters()) for head in heads)
        if not all(same_tensors(first, other) for other in others):
            return None
        return cls(models) if _gives_logits(models[0], heads[0], ids_BT) else None

    def put_back(self) -> None:
        """Give every model its own output layer back."""
        for model, own in zip(self._models, self._own, strict=True):
            through = next(each for each in model.modules() if isinstance(each, _Through))
            _replace(model, through, own)

    def run(
        self,
        hidden: Sequence[torch.Tensor | None],
        keep: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> list[torch.Tensor | None]:
        """Return what ``keep`` makes of each model's number and (B, C, V) logits.

        ``hidden`` are each model's (B, C, D) states; None for a model that did not run.
        """
        found: list[torch.Tensor | None] = [None] * len(hidden)
        for group in self._groups(hidden):
            states = [part for model in group if (part := hidden[model]) is not None]
            logits_BCV = self._own[0](torch.cat(states))
            parts = logits_BCV.split([len(part) for part in states])
            for model, part_BCV in zip(group, parts, strict=True):
                found[model] = keep(model, part_BCV)
        return found

    def _groups(self, hidden: Sequence[torch.Tensor | None]) -> list[list[int]]:
        """Return the numbers of models that share a product."""
        size = int(self._own[0].weight.shape[0])
        groups: list[list[int]] = []
        left = 0
        for model, part in enumerate(hidden):
            if part is None:
                continue
            numbers = part.shape[0] * part.shape[1] * size
            if numbers > left:
                groups.append([])
                left = _NUMBERS_AT_ONCE
            groups[-1].append(model)
            left -= numbers
        return groups


class _Through(nn.Module):
    """Gives what it gets."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return ``hidden``."""
        return hidden


def _gives_logits(model: Any, head: nn.Module, ids_BT: torch.Tensor) -> bool:
    """Whether a model's logits are what its output layer gives, with nothing done to them."""
    given: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _, __, output: given.append(output))
    try:
        logits = model(input_ids=ids_BT, use_cache=False).logits
    finally:
        handle.remove()
    return len(given) == 1 and torch.equal(given[0].float(), logits.float())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is old)
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, new)
