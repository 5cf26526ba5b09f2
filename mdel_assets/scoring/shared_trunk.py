"""A shared trunk: the first layers that several models share, run once for all of them.

Experts differ from their seed in only a few layers. In the embedding and in the layers below these,
all of them compute the same hidden states. `SharedTrunk.run` computes them once, and each model's
next forward pass takes them from memory. Any causal LM of transformers works: the layers are found
through the model's own layer list, and only their `forward` is replaced.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TrainingError
from mdel_assets.training.layers import layer_list_name, put_layers, text_config

if TYPE_CHECKING:
    import torch
    from torch import nn


class SharedTrunk:
    """Wires ``models`` together. ``num_layers`` says how many first layers they share; 0 is none.

    If it is not given, it is found by comparison. While the models are wired, a forward pass of a
    model is valid only for the ids of the last `run`.
    """

    def __init__(self, models: Sequence[Any], *, num_layers: int | None = None) -> None:
        self.models = models
        if num_layers is None:
            num_layers = num_shared_layers(models) if len(models) > 1 else 0
        self.num_layers = num_layers
        self._output: Any = None
        if self.num_layers:
            self._name = _layer_list_name(models[0])
            self._wire()

    def run(self, ids_BT: "torch.Tensor") -> None:
        """Compute what the shared layers give for ``ids_BT``."""
        if self.num_layers:
            self._run(ids_BT, use_cache=False)

    def _run(self, ids_BT: "torch.Tensor", **options: Any) -> None:
        put_layers(self.models[0], self._name, self._trunk)
        try:
            self.models[0].base_model(input_ids=ids_BT, **options)
        finally:
            put_layers(self.models[0], self._name, self._tops[0])

    def unwire(self) -> None:
        """Give every model its own layers back."""
        if self.num_layers:
            for model, layers in zip(self.models, self._own, strict=True):
                put_layers(model, self._name, layers)
        self.num_layers = 0

    def _wire(self) -> None:
        from torch import nn

        count = self.num_layers
        self._own = [_layers(model) for model in self.models]
        shared = list(self._own[0])[:count]
        last = copy.copy(shared[-1])
        last.forward = self._keeping(shared[-1].forward)
        self._trunk = nn.ModuleList([*shared[:-1], last])
        recalled = []
        for layer in shared:
            # A copy keeps what a model may ask of a layer, such as the kind of its attention.
            stand_in = copy.copy(layer)
            stand_in.forward = self._recall
            recalled.append(stand_in)
        self._tops = [nn.ModuleList([*recalled, *list(own)[count:]]) for own in self._own]
        for model, layers in zip(self.models, self._tops, strict=True):
            put_layers(model, self._name, layers)

    def _keeping(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def keep(*arguments: Any, **options: Any) -> Any:
            self._output = forward(*arguments, **options)
            return self._output

        return keep

    def _recall(self, *_: Any, **__: Any) -> Any:
        return self._output


def num_shared_layers(models: Sequence[Any]) -> int:
    """Return how many first layers, with everything before them, are equal in all models."""
    first, *others = models
    if any(type(model) is not type(first) for model in others):
        return 0
    try:
        own = _layers(first)
        rest = [_layers(model) for model in others]
    except TrainingError:
        return 0
    if any(len(layers) != len(own) for layers in rest):
        return 0
    before = _parameters_before_layers(first)
    if not all(same_tensors(before, _named(model, before)) for model in others):
        return 0
    for index, layer in enumerate(own):
        expected = dict(layer.named_parameters())
        if not all(same_tensors(expected, dict(each[index].named_parameters())) for each in rest):
            return index
    return len(own)


def num_layers_before(model: Any, names: Collection[str]) -> int:
    """Return how many first layers run before any of the parameters ``names`` is used."""
    try:
        prefix = f"{_layer_list_name(model)}."
    except TrainingError:
        return 0
    if _parameters_before_layers(model).keys() & set(names):
        return 0
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    numbers = [int(name.split(".")[0]) for name in inside]
    return min(numbers, default=len(_layers(model)))


def share_equal_tensors(model: Any, first: Any) -> int:
    """Let ``model`` use ``first``'s tensors if both are equal; return the bytes of the rest."""
    theirs = dict(first.named_modules())
    kept = 0
    for name, module in model.named_modules():
        other = theirs.get(name)
        for key, tensor in list(module._parameters.items()):
            twin = other._parameters.get(key) if other is not None else None
            if tensor is not None and twin is not None and _same_tensor(tensor, twin):
                module._parameters[key] = twin
            elif tensor is not None:
                kept += tensor.numel() * tensor.element_size()
    return kept


def _parameters_before_layers(model: Any) -> "dict[str, torch.Tensor]":
    """Return the parameters of modules that run before the first layer does, by name."""
    import torch

    first_layer = _layers(model)[0]
    inside = set(first_layer.modules())
    is_before = True
    found: dict[str, torch.Tensor] = {}

    def note(name: str, module: "nn.Module") -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal is_before
            if module is first_layer:
                is_before = False
            elif is_before and module not in inside:
                own = module.named_parameters(prefix=name, recurse=False)
                found.update(own)

        return hook

    handles = [m.register_forward_pre_hook(note(name, m)) for name, m in model.named_modules()]
    try:
        with torch.inference_mode():
            device = next(model.parameters()).device
            model.base_model(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _named(model: Any, names: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
    return {name: tensor for name, tensor in model.named_parameters() if name in names}


def same_tensors(ours: Mapping[str, "torch.Tensor"], theirs: Mapping[str, "torch.Tensor"]) -> bool:
    """Whether both have the same names, and under each the same numbers."""
    return ours.keys() == theirs.keys() and all(
        _same_tensor(tensor, theirs[name]) for name, tensor in ours.items()
    )


def _same_tensor(ours: "torch.Tensor", theirs: "torch.Tensor") -> bool:
    import torch

    if ours is theirs:
        return True
    same_kind = ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return same_kind and torch.equal(ours, theirs)


def _layers(model: Any) -> "nn.ModuleList":
    found: nn.ModuleList = model.get_submodule(_layer_list_name(model))
    return found


def _layer_list_name(model: Any) -> str:
    return layer_list_name(model, num_layers=text_config(model.config).num_hidden_layers)
