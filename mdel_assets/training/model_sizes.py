"""The sizes of a model that prices are computed from, read from its configuration alone.

The model is built on torch's meta device, which has shapes and no memory. A matrix product of a
(m, k) and a (k, n) matrix counts as 2 m k n operations, as torch's own counter counts it. The two
products of attention are counted for all pairs of positions, and their backward pass as twice the
forward one.
"""

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TrainingError
from mdel_assets.experiment.adapters import Adapter
from mdel_assets.training.adapters import adapted_modules
from mdel_assets.training.layers import layer_list_name, resolve_parts, text_config

if TYPE_CHECKING:
    from torch import nn

# A tokenizer from scratch gives its only special token this id.
_END_OF_TEXT = dict.fromkeys(("bos_token_id", "eos_token_id"), 0)
TrainedLayers = str | tuple[int | str, ...] | None


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix that every token is multiplied by: its elements, and its parameter's name."""

    name: str
    num_elements: int


@dataclasses.dataclass(frozen=True)
class Training:
    """What of a model is trained.

    ``num_trained`` parameters, which change ``num_changed`` of the model's; no gradient reaches a
    layer before the ``first``. ``names`` are those of the model's own trained parameters: there are
    none if ``has_adapters``.
    """

    num_trained: int
    num_changed: int
    first: int
    names: frozenset[str]
    has_adapters: bool = False


class ModelSizes:
    """The sizes of one model, by its transformers configuration.

    Raises:
        TrainingError: transformers refuses the configuration.

    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._saved: dict[int, float] = {}
        self._model = _on_meta(config)
        inner = text_config(config)
        self.num_layers: int = inner.num_hidden_layers
        self.hidden_size: int = inner.hidden_size
        heads = getattr(inner, "num_attention_heads", 1)
        head_width = getattr(inner, "head_dim", None) or inner.hidden_size // heads
        self.attention_width: int = heads * head_width
        # Of a token's keys in one layer, and of its values.
        self.cache_width: int = head_width * (getattr(inner, "num_key_value_heads", None) or heads)
        self._name = layer_list_name(self._model, num_layers=self.num_layers)
        self.num_parameters: int = sum(p.numel() for p in self._model.parameters())
        self.vocab_rows: int = self._model.get_input_embeddings().weight.shape[0]
        self._head = self._model.get_output_embeddings()
        self.layers = [_products(layer) for layer in self._model.get_submodule(self._name)]
        self.num_mlp_parameters = sum(
            parameter.numel()
            for name, parameter in self._model.named_parameters()
            if name.startswith(f"{self._name}.") and ".mlp." in name
        )

    def trained(self, trained_layers: TrainedLayers, adapter: Adapter | None = None) -> Training:
        """Return what of the model is trained; None stands for every parameter.

        With ``adapter``, it is trained in the linear layers that ``trained_layers`` names.

        Raises:
            TrainingError: the model has no such layers, or no such targets of ``adapter``.

        """
        own = dict(self._model.named_parameters())
        prefixes: tuple[str, ...] = ("",)
        first = 0
        if trained_layers is not None:
            parts = resolve_parts(self._model, trained_layers)
            prefixes, first = tuple(parts.prefixes), parts.first
        if adapter:
            modules = adapted_modules(self._model, prefixes, adapter)
            weights = [own[f"{name}.weight"] for name in modules]
            size = adapter.rank * sum(sum(weight.shape) for weight in weights)
            num_changed = sum(weight.numel() for weight in weights)
            return Training(size, num_changed, first, frozenset(), has_adapters=True)
        names = frozenset(name for name in own if name.startswith(prefixes))
        count = sum(own[name].numel() for name in names)
        return Training(count, count, first, names)

    def feed_forward_of(self, layer: int) -> frozenset[str]:
        """Return the names of the parameters of a layer's feed-forward."""
        prefix = f"{self._name}.{layer}.mlp."
        own = (name for name, _ in self._model.named_parameters())
        return frozenset(name for name in own if name.startswith(prefix))

    def forward(self, num_tokens: float, *, length: int, first: int = 0) -> float:
        """Return the operations of a forward pass from layer ``first`` on, with the output layer.

        The tokens come in windows of ``length``.
        """
        layers = sum(self._layer(index, length) for index in range(first, self.num_layers))
        return num_tokens * (layers + self._head_operations)

    def below(self, num_tokens: float, *, length: int, first: int) -> float:
        """Return the operations of a forward pass through the layers before ``first``."""
        return num_tokens * sum(self._layer(index, length) for index in range(first))

    def step(self, num_rows: int, *, length: int, trained: Training) -> float:
        """Return the operations of one training step on ``num_rows`` blocks of ``length`` tokens.

        The loss's products are those of `fused_loss`: every token but a block's first is predicted.
        """
        num_tokens = num_rows * length
        total = self.below(num_tokens, length=length, first=self.num_layers)
        for index in range(trained.first, self.num_layers):
            total += 2.0 * num_tokens * self._attention(length)
            for product in self.layers[index]:
                name = f"{self._name}.{index}.{product.name}"
                times = 4.0 if name in trained.names else 2.0
                total += times * num_tokens * product.num_elements
        if trained.has_adapters:
            # A product forward, and two backward: to inputs and weights.
            total += 6.0 * num_tokens * trained.num_trained
        head = 3.0 if self.trains_head(trained) else 2.0
        return total + head * num_rows * (length - 1) * self._head_operations

    def trains_head(self, trained: Training) -> bool:
        """Whether the output layer is trained."""
        own = self._head.weight
        return any(
            parameter is own and name in trained.names
            for name, parameter in self._model.named_parameters(remove_duplicate=False)
        )

    @property
    def _head_operations(self) -> float:
        return 2.0 * float(self._head.weight.numel())

    def _attention(self, length: int) -> float:
        """Return attention's operations for a token in a window of ``length``."""
        return 4.0 * self.attention_width * length

    def _layer(self, index: int, length: int) -> float:
        products = sum(product.num_elements for product in self.layers[index])
        return 2.0 * products + self._attention(length)

    def saved_bytes_per_layer(self, length: int) -> float:
        """Return what a layer keeps of one block for the backward pass, in fp32.

        One layer with its real width and no values of interest runs on one block, and autograd says
        what it saves. Every buffer counts once, and no weight. It runs once for each length.
        """
        run = min(length, 2048)
        if run not in self._saved:
            self._saved[run] = _saved_bytes(self.config, run)
        return self._saved[run] * (length / run)


def pretrained_config(settings: dict[str, Any], *, vocab_size: int) -> Any:
    """Return the configuration of a model from scratch with ``vocab_size`` words."""
    from transformers import AutoConfig

    content = dict(settings)
    try:
        model_type = content.pop("model_type")
        return AutoConfig.for_model(model_type, vocab_size=vocab_size, **_END_OF_TEXT, **content)
    except (ValueError, TypeError) as error:
        raise TrainingError(f"seed_model.pretrain.model is refused: {error}") from error


def _on_meta(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:
        # Each family raises its own errors for impossible settings: KeyError, ZeroDivisionError.
        raise TrainingError(
            f"A model of type {getattr(config, 'model_type', '?')} cannot be built: "
            f"{type(error).__name__}: {error}"
        ) from error


def _products(layer: "nn.Module") -> list[Product]:
    """Return the matrices of a layer's linear modules, also of GPT-2's transposed ones."""
    return [
        Product(f"{name}.weight", module.weight.numel())
        for name, module in layer.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.dim() == 2
    ]


def small_config(config: Any, *, num_layers: int, vocab_size: int | None = None) -> Any:
    """Return a configuration with fewer layers, and perhaps fewer words, of the same widths."""
    content = config.to_dict()
    inner = content.get("text_config") if isinstance(content.get("text_config"), dict) else content
    for name, value in list(inner.items()):
        # Such as the kind of attention of each layer.
        if isinstance(value, list) and len(value) == text_config(config).num_hidden_layers:
            inner[name] = value[:num_layers]
    own_name = text_config(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    inner[own_name] = num_layers
    if vocab_size is not None:
        inner |= {"vocab_size": vocab_size, "pad_token_id": None, **_END_OF_TEXT}
    return type(config).from_dict(content)


def random_model(config: Any) -> Any:
    """Return a model of ``config`` on the processor whose weights are small random numbers.

    They are fp32, as those of a training are, whatever the model is stored in.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("cpu"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)


def _saved_bytes(config: Any, length: int) -> float:
    import torch

    model = random_model(small_config(config, num_layers=1, vocab_size=64)).train()
    weights = {tensor.untyped_storage()._cdata for tensor in model.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def note(tensor: "torch.Tensor") -> "torch.Tensor":
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            # A buffer that were freed could be counted again under another's address.
            held.append(tensor)
        return tensor

    ids_BT = torch.zeros((1, length), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.base_model(input_ids=ids_BT, use_cache=False)
    return float(sum(sizes.values()))
