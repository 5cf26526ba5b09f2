"""Hidden states at the first trained layer, kept for training runs that read blocks more than once.

The layers below the first trained one never change, so what they make of a block is computed once
and then read from a file. A run that was killed finds what was computed before: a cached run that
goes on gives the same bits as one that was never stopped.
"""

import copy
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mdel_assets.training.layers import put_layers, text_config

if TYPE_CHECKING:
    from torch import Tensor

_STATES_NAME, _KNOWN_NAME = "prefix.float32", "prefix.known"

# Shapes in names: N blocks, B blocks of a batch, T positions, D hidden width.


class PrefixCache:
    """The states of N blocks of T tokens below layer ``first_trained`` of ``model``."""

    def __init__(
        self,
        model: Any,
        *,
        layers_name: str,
        first_trained: int,
        shape_NT: tuple[int, int],
        folder: Path,
    ) -> None:
        self._model = model
        self._name = layers_name
        own = list(model.get_submodule(layers_name))
        self._whole = nn.ModuleList(own)
        self._whole[first_trained - 1] = self._standing_in(own[first_trained - 1], keeps=True)
        recalled = [self._standing_in(layer, keeps=False) for layer in own[:first_trained]]
        self._rest = nn.ModuleList([*recalled, *own[first_trained:]])
        self._own = model.get_submodule(layers_name)
        self._hidden: Any = None
        width = text_config(model.config).hidden_size
        folder.mkdir(parents=True, exist_ok=True)
        self._states_NTD = _file(folder / _STATES_NAME, (*shape_NT, width), np.float32)
        self._known_N = _file(folder / _KNOWN_NAME, shape_NT[:1], np.uint8)

    def hidden(self, ids_BT: "Tensor", blocks_B: "Tensor") -> "Tensor":
        """Return the model's last hidden states of the blocks numbered ``blocks_B``."""
        numbers_B = blocks_B.cpu().numpy()
        is_known = bool(self._known_N[numbers_B].all())
        if is_known:
            states = torch.from_numpy(self._states_NTD[numbers_B])
            self._hidden = states.to(ids_BT.device)
        put_layers(self._model, self._name, self._rest if is_known else self._whole)
        try:
            output = self._model.base_model(input_ids=ids_BT, use_cache=False)
        finally:
            put_layers(self._model, self._name, self._own)
        if not is_known:
            self._states_NTD[numbers_B] = self._hidden.detach().float().cpu().numpy()
            self._known_N[numbers_B] = 1
        self._hidden = None
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _standing_in(self, layer: nn.Module, *, keeps: bool) -> nn.Module:
        """Return a copy of ``layer`` that keeps its output, or gives the one that was kept."""
        forward = layer.forward

        def keep(*arguments: Any, **options: Any) -> Any:
            self._hidden = forward(*arguments, **options)
            return self._hidden

        def recall(*_: Any, **__: Any) -> Any:
            return self._hidden

        # A copy keeps what a model may ask of a layer, such as the kind of its attention.
        copied = copy.copy(layer)
        copied.forward = keep if keeps else recall
        return copied


def has_dropout(model: Any) -> bool:
    """Whether a forward pass in training draws random numbers."""
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    settings = text_config(model.config)
    rates += [getattr(settings, name, 0) or 0 for name in ("attention_dropout", "attn_pdrop")]
    return any(rate > 0 for rate in rates)


def _file(path: Path, shape: tuple[int, ...], kind: Any) -> Any:
    """Open an array on disk, of zeros where it is new, with all of its room taken at once."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape) * np.dtype(kind).itemsize))
        partial.rename(path)
    return np.memmap(path, kind, mode="r+", shape=shape)
