"""LoRA adapters in files, as PEFT writes them, and what they add to a model's weights.

An adapter's folder has `CONFIG_NAME` and `LORA_NAME`. For a linear layer of ``in`` and ``out``
features the latter holds ``lora_A`` (rank, in) and ``lora_B`` (out, rank). ``lora_B @ lora_A``,
times the scale, is added to the layer's weight (out, in); some families, such as GPT-2, store
weights transposed. Shapes in names: R rows and C columns of a weight, K the rank.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import MergeError
from mdel_assets.store.tensor_headers import read_header, read_json

if TYPE_CHECKING:
    import torch

CONFIG_NAME = "adapter_config.json"
LORA_NAME = "adapter_model.safetensors"
# What PEFT puts before the names of a model's modules.
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# What an adapter may do besides adding a product to weights; none of it is supported.
_FEATURES = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "layer_replication"),
    *("target_parameters", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
# Beginnings of adapters with which the base's weights stay those of the base.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")
_REMEDY = (
    "Merge it with PEFT (merge_and_unload), save the model, and name its folder in place of both."
)
# Elements that are computed at a time, few enough for a processor's cache.
_AT_ONCE = 1 << 16
_KEPT_FACTORS = 4


@dataclasses.dataclass(frozen=True)
class Factors:
    """What is added to a weight of R rows and C columns: ``scale`` times left times right."""

    left_RK: "torch.Tensor"
    right_KC: "torch.Tensor"
    scale: float

    @classmethod
    def of(
        cls, a: "torch.Tensor", b: "torch.Tensor", *, scale: float, is_transposed: bool
    ) -> "Factors":
        """Return them for an adapter's two matrices, in fp32."""
        left, right = (a.T, b.T) if is_transposed else (b, a)
        return cls(left.float().contiguous(), right.float().contiguous(), scale)

    def add_to(self, values: "torch.Tensor", *, first: int = 0) -> None:
        """Add the change to ``values``, fp32 elements of the weight from ``first`` on, in place.

        The bits do not depend on how a weight is cut: each element is a sum in a fixed order.
        """
        width = self.right_KC.shape[1]
        end = first + len(values)
        step = max(1, _AT_ONCE // width) * width if width <= _AT_ONCE else _AT_ONCE
        while first < end:
            row, column = divmod(first, width)
            if column or end - first < width or width > _AT_ONCE:
                # The rest of a row, or a part of it.
                count = min(width - column, end - first, step)
                part = self._product(slice(row, row + 1), slice(column, column + count))
            else:
                count = min(step, (end - first) // width * width)
                part = self._product(slice(row, row + count // width), slice(None))
            values[len(values) - (end - first) :][:count].add_(part)
            first += count

    def _product(self, rows: slice, columns: slice) -> "torch.Tensor":
        import torch

        left_RK, right_KC = self.left_RK[rows], self.right_KC[:, columns]
        # A library's product of matrices sums in an order that depends on their sizes.
        total_RC = left_RK[:, 0, None] * right_KC[0]
        more_RC = torch.empty_like(total_RC)
        for k in range(1, len(right_KC)):
            torch.mul(left_RK[:, k, None], right_KC[k], out=more_RC)
            total_RC.add_(more_RC)
        return total_RC.mul_(self.scale).flatten()


class LoraFolder:
    """The LoRA adapter in a folder, for a model with tensors of these ``shapes``.

    ``name`` is that of both in messages.

    Raises:
        MergeError: it is not an adapter as PEFT writes them, does something that is not supported,
            or does not fit the model.

    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], *, name: str) -> None:
        self._path = folder / LORA_NAME
        self._config = adapter_config(folder)
        self._modules = _modules_by_weight(_pairs(self._path), shapes, name)
        self._factors = functools.lru_cache(maxsize=_KEPT_FACTORS)(self._read_factors)

    def changes(self, weight: str) -> bool:
        """Whether it changes the tensor called ``weight``."""
        return weight in self._modules

    def add_to(
        self, values: "torch.Tensor", weight: str, shape: tuple[int, ...], *, first: int
    ) -> None:
        """Add the change to fp32 elements of ``weight`` from ``first`` on, in place."""
        self._factors(self._modules[weight], shape).add_to(values, first=first)

    def _read_factors(self, module: str, shape: tuple[int, ...]) -> Factors:
        from safetensors import safe_open

        with safe_open(self._path, "pt") as file:
            a, b = (file.get_tensor(f"{PREFIX}{module}.lora_{which}.weight") for which in "AB")
        is_square = shape[0] == shape[1]
        is_transposed = bool(self._config.get("fan_in_fan_out"))
        if not is_square:
            is_transposed = tuple(shape) == (a.shape[1], b.shape[0])
        scale = self._scale(module, rank=len(a))
        return Factors.of(a, b, scale=scale, is_transposed=is_transposed)

    def _scale(self, module: str, *, rank: int) -> float:
        patterns = self._config.get("alpha_pattern") or {}
        alpha = next(
            (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)),
            self._config.get("lora_alpha", 8),
        )
        return float(alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank))


def adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the adapter in ``folder``; raises as `LoraFolder`."""
    path = folder / CONFIG_NAME
    if not path.is_file() or not (folder / LORA_NAME).is_file():
        raise MergeError(
            f"{folder} is not an adapter: it has no {CONFIG_NAME} with an {LORA_NAME}. Give a "
            f"folder or a repository as PEFT saves them (save_pretrained)."
        )
    try:
        config = read_json(path.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise MergeError(f"{path} is not JSON ({error}). Fetch it or make it again.") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise MergeError(
            f"The adapter {folder} is of type {kind}; only LORA can be merged here. {_REMEDY}"
        )
    used = [feature for feature in _FEATURES if config.get(feature)]
    if config.get("bias", "none") != "none":
        used.append(f"bias: {config['bias']}")
    if config.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        used.append(f"init_lora_weights: {config['init_lora_weights']}")
    if used:
        raise MergeError(
            f"The adapter {folder} uses {', '.join(used)}, which is not supported here. {_REMEDY}"
        )
    return dict(config)


def _pairs(path: Path) -> dict[str, tuple[int, int]]:
    """Return the (out, in) features of each module that an adapter's file changes."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    strange = []
    for key, tensor in read_header(path).items():
        match = _FACTOR.fullmatch(key.removeprefix(PREFIX))
        if match is None or not key.startswith(PREFIX) or len(tensor.shape) != 2:
            strange.append(key)
        else:
            halves.setdefault(match["module"], {})[match["which"]] = tensor.shape
    for module, pair in halves.items():
        if len(pair) < 2 or pair["A"][0] != pair["B"][1] or not pair["A"][0]:
            strange.append(module)
    if strange or not halves:
        shown = ", ".join(sorted(strange)[:3]) or "no tensor"
        raise MergeError(
            f"{path} holds {shown}; only pairs of lora_A and lora_B of linear layers can be merged "
            f"here. {_REMEDY}"
        )
    return {module: (pair["B"][0], pair["A"][1]) for module, pair in halves.items()}


def _modules_by_weight(
    features: Mapping[str, tuple[int, int]], shapes: Mapping[str, tuple[int, ...]], name: str
) -> dict[str, str]:
    """Return which module each weight of a model belongs to, of those that an adapter changes."""
    found = {}
    for module, wanted in features.items():
        # GPT-2's files on the Hub leave out the first part of names.
        names = (f"{module}.weight", f"{module.partition('.')[2]}.weight")
        weight = next((one for one in names if one in shapes), None)
        if weight is None:
            raise MergeError(
                f"{name}: the adapter changes {module}, which the model does not have. Merge it "
                f"into the model that it was trained for."
            )
        if tuple(shapes[weight]) not in (wanted, wanted[::-1]):
            raise MergeError(
                f"{name}: the adapter changes {module} of {wanted[0]} output and {wanted[1]} input "
                f"features, but its weight is {list(shapes[weight])}. Merge it into the model that "
                f"it was trained for."
            )
        found[weight] = module
    return found
