"""LoRA adapters in a model that is trained: put in by PEFT, stored as PEFT stores them, merged.

An adapter replaces nothing: the weights of its layers stay frozen while it is trained, and take its
product once, in fp32, when it is done. What is stored of the model is its merged weights, so that
every later step reads it like any other.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TrainingError, install_extra, unknown_name_message
from mdel_assets.experiment.adapters import Adapter
from mdel_assets.store.artifacts import RECORD_NAME
from mdel_assets.store.lora_files import CONFIG_NAME, LORA_NAME, PREFIX, Factors
from mdel_assets.store.records import Record
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.model_files import load_model
from mdel_assets.training.trained_model import names_in_files

if TYPE_CHECKING:
    import torch
    from torch import nn

# Where an expert's adapter lies in its folder.
ADAPTER_FOLDER = "adapter"
_DEFAULT = "default"


def require_peft() -> None:
    """Raise `TrainingError` with the remedy if PEFT is not installed."""
    if not _is_there("peft"):
        raise TrainingError(
            "training.adapter needs PEFT, which is not installed: install the extra 'lora' "
            f"({install_extra('lora')})."
        )


def _is_there(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:
        # Python's own mark of a module that must not be imported.
        return False


def adapted_modules(model: "nn.Module", prefixes: Sequence[str], adapter: Adapter) -> list[str]:
    """Return the names of the linear layers under ``prefixes`` that ``adapter`` is trained in.

    Raises:
        TrainingError: a target is no linear layer of the model, or lies outside of what is trained.

    """
    linear = [name for name, module in model.named_modules() if _is_linear(module)]
    inside = [name for name in linear if f"{name}.".startswith(tuple(prefixes))]
    if adapter.targets is None:
        if not inside:
            raise TrainingError(
                "training.trained_layers names no linear layer, so training.adapter has nothing "
                "to adapt. Add one, such as a whole layer or its mlp."
            )
        return inside
    for target in adapter.targets:
        if not any(map(_naming(target), linear)):
            known = sorted({_last(name) for name in linear})
            told = unknown_name_message("target", target, known)
            raise TrainingError(f"training.adapter.targets: {told}")
        if not any(map(_naming(target), inside)):
            raise TrainingError(
                f"training.adapter.targets: '{target}' lies outside of training.trained_layers. "
                f"Linear layers there: {', '.join(sorted({_last(name) for name in inside}))}."
            )
    wanted = [_naming(target) for target in adapter.targets]
    return [name for name in inside if any(is_named(name) for is_named in wanted)]


def _naming(target: str) -> Any:
    """Return whether a module's name is ``target`` or ends with it, as PEFT reads targets."""
    return lambda name: name == target or name.endswith(f".{target}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_linear(module: "nn.Module") -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A model's linear layers that ``adapter`` is trained in; ``transposed`` as GPT-2 has them."""

    adapter: Adapter
    modules: list[str]
    transposed: frozenset[str]

    @classmethod
    def of(cls, model: "nn.Module", prefixes: Sequence[str], adapter: Adapter) -> "Adapted":
        """Return where ``adapter`` is trained; raises as `adapted_modules` and `require_peft`."""
        from torch import nn

        require_peft()
        modules = _that_work(model, adapted_modules(model, prefixes, adapter), adapter)
        other = [n for n in modules if not isinstance(model.get_submodule(n), nn.Linear)]
        return cls(adapter, modules, frozenset(other))

    @property
    def weights(self) -> list[str]:
        """The names of the weights that the adapters are merged into."""
        return [f"{name}.weight" for name in self.modules]

    def put_into(self, model: "nn.Module", *, seed: int) -> int:
        """Put adapters into ``model``, and let nothing else be trained; return their size.

        They begin as zero: one matrix of each is random, drawn by ``seed``, and the other is 0.
        """
        import torch
        from peft import inject_adapter_in_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                inject_adapter_in_model(copy.deepcopy(self._config()), model)
            except ValueError as error:
                raise TrainingError(
                    f"PEFT refuses training.adapter: {error} Name other layers in its targets."
                ) from error
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    def finish(
        self,
        tensors: "Mapping[str, torch.Tensor]",
        model: "nn.Module | None",
        folder: Path,
        *,
        seed_folder: Path,
    ) -> "dict[str, torch.Tensor]":
        """Store the trained adapters in ``folder``; return the weights with them, in fp32.

        ``model`` gets these weights, and has no adapters afterwards.
        """
        self._save(tensors, folder / ADAPTER_FOLDER, seed_folder=seed_folder)
        merged = self._merged(tensors, seed_folder)
        if model is not None:
            self._take_out_of(model, merged)
        return merged

    def _take_out_of(self, model: "nn.Module", merged: "Mapping[str, torch.Tensor]") -> None:
        """Give ``model`` its own layers back, with the ``merged`` weights."""
        for name in self.modules:
            parent, _, child = name.rpartition(".")
            own: Any = model.get_submodule(f"{name}.base_layer")
            own.weight.data = merged[f"{name}.weight"].to(own.weight.device)
            setattr(model.get_submodule(parent), child, own)

    def _merged(
        self, tensors: "Mapping[str, torch.Tensor]", seed_folder: Path
    ) -> "dict[str, torch.Tensor]":
        """Return the seed's weights with the trained adapters added, by their names."""
        found = {}
        for name, weight in _weights_of(seed_folder, self.weights):
            a, b = (tensors[_own_name(name.removesuffix(".weight"), which)] for which in "AB")
            factors = Factors.of(
                a,
                b,
                scale=self.adapter.strength / self.adapter.rank,
                is_transposed=name.removesuffix(".weight") in self.transposed,
            )
            found[name] = weight.contiguous()
            factors.add_to(found[name].view(-1))
        return found

    def _save(
        self, tensors: "Mapping[str, torch.Tensor]", folder: Path, *, seed_folder: Path
    ) -> None:
        """Write the trained adapters into ``folder``, for PEFT to load."""
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        config = self._config().to_dict() | _base(seed_folder)
        # PEFT writes sets in any order: the same adapter is to have the same bytes.
        content = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        text = json.dumps(content | {"inference_mode": True}, indent=2, sort_keys=True)
        (folder / CONFIG_NAME).write_text(text + "\n", "utf-8")
        stored = {
            f"{PREFIX}{module}.lora_{which}.weight": tensors[_own_name(module, which)]
            for module in self.modules
            for which in "AB"
        }
        save_file(stored, folder / LORA_NAME, metadata={"format": "pt"})

    def _config(self) -> Any:
        from peft import LoraConfig

        strength = self.adapter.strength
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.adapter.rank,
            lora_alpha=int(strength) if strength.is_integer() else strength,  # type: ignore[arg-type, unused-ignore]
            lora_dropout=self.adapter.dropout,
            target_modules=self.modules,
            fan_in_fan_out=bool(self.transposed),
        )


def _that_work(model: Any, modules: Sequence[str], adapter: Adapter) -> list[str]:
    """Return the modules that an adapter has an effect on, by a pass over two tokens.

    Left out, or refused where ``adapter`` names its targets, are layers that give more than their
    product, such as a mixture's router. Layers that never run because something else reads their
    weight, as in Mamba, are refused.
    """
    import torch

    from mdel_assets.training.stored_precision import weights_read_directly

    unused, other = set(modules), set()

    def note(name: str, given: Any) -> None:
        unused.discard(name)
        if not isinstance(given, torch.Tensor):
            other.add(name)

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for name in modules:
            hook = functools.partial(lambda name, *seen: note(name, seen[-1]), name)
            stack.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        ids_BT = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
        model(input_ids=ids_BT, use_cache=False)
    # Experts of a mixture that no token went to did not run, either.
    read = weights_read_directly(model) if unused else set()
    if found := sorted(n for n in unused if id(model.get_submodule(n).weight) in read):
        raise TrainingError(
            f"training.adapter: this model reads the weights of {_listed(found)} without running "
            f"these layers, so adapters there would have no effect. Name others in adapter.targets."
        )
    if other and adapter.targets is not None:
        raise TrainingError(
            f"training.adapter: {_listed(sorted(other))} give more than a product in this model, "
            f"so that they take no adapter. Name others in adapter.targets."
        )
    return [name for name in modules if name not in other]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(map(_last, names)))


def _own_name(module: str, which: str) -> str:
    """Return the name of an adapter's matrix in a model that PEFT has put it into."""
    return f"{module}.lora_{which}.{_DEFAULT}.weight"


def _weights_of(folder: Path, names: Sequence[str]) -> "list[tuple[str, torch.Tensor]]":
    """Return weights of the model in ``folder`` in fp32, by their names in memory."""
    stored = names_in_files(names, folder)
    if len(stored) < len(names):
        # The files store tensors in another form than the model: the library converts them.
        own = dict(load_model(folder, dtype="float32").named_parameters())
        return [(name, own[name].detach().clone()) for name in names]
    with TensorFolder(folder) as files:
        return [(name, files.read(stored[name]).float()) for name in names]


def _base(seed_folder: Path) -> dict[str, Any]:
    """Return what an adapter's configuration says of the model that it was trained for."""
    path = seed_folder / RECORD_NAME
    if not path.is_file():
        return {}
    record = Record.parse(path.read_text("utf-8"))
    if commit := record.config.get("commit"):
        return {"base_model_name_or_path": record.config["path"], "revision": commit}
    # Its place under MDEL_HOME: a path on this machine is nothing to publish.
    return {"base_model_name_or_path": f"{record.experiment}/models/seed"}
