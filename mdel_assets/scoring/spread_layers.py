"""Score a model that does not fit on one device: its layers are spread over all memory there is.

accelerate's device map fills the GPUs first and then the processor's memory. What is left stays in
the model's own files, from which each layer is read in every forward pass; nothing is written.
Weights, their precision and the operations on them are those of a model that is loaded whole. Only
the output layer always stays in memory, because scoring reads its weights in tiles.
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mdel_assets.errors import MdelError, ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.half_precision import halve_linear_layers
from mdel_assets.store.tensor_files import TensorFolder, is_float
from mdel_assets.store.tensor_names import Layers
from mdel_assets.training.trained_model import names_in_files

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
# Batches need the rest. A model that is loaded whole may take the first share of the free memory;
# of one that is spread, each device takes the second share.
_SHARE_OF_WHOLE = 0.9
_SHARE_OF_SPREAD = 0.8
_HALVES = ("F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes that scoring may use: of each GPU, by its number, and of the processor's memory."""

    gpu_bytes: tuple[int, ...]
    cpu_bytes: int

    @classmethod
    def free(cls) -> "Memory":
        """Return what is free now."""
        import torch

        gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return cls(tuple(map(_free_on, gpus)), int(psutil.virtual_memory().available))

    @property
    def device_bytes(self) -> int:
        """The memory of the device that a model is loaded onto if it fits."""
        return self.gpu_bytes[0] if self.gpu_bytes else self.cpu_bytes


def _free_on(gpu: int) -> int:
    """Return a GPU's free bytes; what torch keeps for later tensors is free, too."""
    import torch

    kept = torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu)
    return torch.cuda.mem_get_info(gpu)[0] + kept


def fits(model: str | Path, evaluation: Evaluation, memory: Memory) -> bool:
    """Whether a model's weights fit on one device, by the headers of its files.

    A model without readable files counts as fitting: loading it says what is wrong.
    """
    try:
        stored = TensorFolder(Path(model)).stored
    except (MdelError, OSError):
        return True
    is_half = {entry.dtype for entry in stored.values() if is_float(entry.dtype)} <= set(_HALVES)
    layers = Layers.of(stored)
    needed = 0
    for name, entry in stored.items():
        if memory.gpu_bytes:
            is_matrix = len(entry.shape) > 1 and layers.index_of(name) is not None
            width = 2 if evaluation.dtype == "bfloat16" and is_matrix else 4
        else:
            # A processor keeps weights in the half precision of their files; rounding comes later.
            width = 2 if is_half else 4
        needed += width * entry.num_elements
    return needed <= _SHARE_OF_WHOLE * memory.device_bytes


def is_spread(model: Any) -> bool:
    """Whether `load_spread` has loaded the model."""
    return hasattr(model, "hf_device_map")


def computing_device(model: Any) -> "torch.device":
    """Return the device that takes a model's inputs and gives its outputs."""
    import torch

    if is_spread(model):
        return torch.device(model._hf_hook.execution_device)
    return next(model.parameters()).device  # type: ignore[no-any-return]


def load_spread(folder: Path, evaluation: Evaluation, memory: Memory) -> Any:
    """Return the model in ``folder``, spread over ``memory`` and its files; it computes as whole.

    None if the files store tensors in another form than the model does, as of some mixtures of
    experts: then it must be loaded whole.

    Raises:
        ScoringError: the memory does not hold its output layer.

    """
    from accelerate import dispatch_model

    model = _without_weights(folder)
    stored = _stored_names(model, folder)
    if stored is None:
        _log.warning("%s cannot be spread: its files do not hold tensors as it has them", folder)
        return None
    if evaluation.dtype == "bfloat16":
        _halve(model, folder)
    main: int | str = 0 if memory.gpu_bytes else "cpu"
    places = _places(model, memory, main)
    place_of = {name: _place_of(name, places) for name in stored}
    with TensorFolder(folder) as files:
        _read_into_memory(model, files, stored, place_of)
        index = {
            name: {
                "safetensors_file": str(files.stored[stored[name]].path),
                "weight_name": stored[name],
                "dtype": str(parameter.dtype).removeprefix("torch."),
            }
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if place_of[name] == "disk"
        }
    counts = {place: list(places.values()).count(place) for place in places.values()}
    told = ", ".join(f"{place}: {count}" for place, count in counts.items())
    _log.info("%s does not fit on one device; its modules are spread (%s)", folder, told)
    return dispatch_model(
        model,
        device_map=places,
        main_device=main,
        offload_index=index or None,
        skip_keys="past_key_values",
        force_hooks=True,
    )


def _without_weights(folder: Path) -> Any:
    """Return the model of a folder's configuration, with buffers but without weights."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from mdel_assets.training.model_files import load_config
    from mdel_assets.training.stored_precision import leaving_weights_alone

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(load_config(folder), dtype=torch.float32)
    model.tie_weights()
    return leaving_weights_alone(model.eval())


def _halve(model: Any, folder: Path) -> None:
    """Round linear layers as `halve_linear_layers` does, without running the model.

    A pass over tensors that have shapes but no numbers finds the weights that are read outside
    their layers. A model whose code needs numbers for that stays in fp32.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    from mdel_assets.training.model_files import load_config
    from mdel_assets.training.stored_precision import weights_read_directly

    try:
        with FakeTensorMode():
            twin = AutoModelForCausalLM.from_config(load_config(folder), dtype=torch.float32)
            read = weights_read_directly(twin.eval())
    except (RuntimeError, NotImplementedError) as error:
        _log.warning("%s is scored in float32 instead of bfloat16: %s", folder, error)
        return
    names = {name for name, parameter in twin.named_parameters() if id(parameter) in read}
    own = {id(parameter) for name, parameter in model.named_parameters() if name in names}
    halve_linear_layers(model, read=own)


def _places(model: Any, memory: Memory, main: int | str) -> dict[str, int | str]:
    """Return the place of every module: a GPU's number, ``cpu`` or ``disk``."""
    from accelerate import infer_auto_device_map

    output = model.get_output_embeddings()
    weight = getattr(output, "weight", None)
    held = [
        name
        for name, module in model.named_modules()
        if weight is not None and module._parameters.get("weight") is weight
    ]
    held_bytes = 0 if weight is None else weight.numel() * weight.element_size()
    free: dict[int | str, int] = {**dict(enumerate(memory.gpu_bytes)), "cpu": memory.cpu_bytes}
    room = {place: int(_SHARE_OF_SPREAD * size) for place, size in free.items()}
    if held_bytes > room[main]:
        raise ScoringError(
            f"The output layer takes {held_bytes} bytes, but of the free memory it may take only "
            f"{room[main]}. Free some memory, or score on a larger machine."
        )
    room[main] -= held_bytes
    places = infer_auto_device_map(
        model,
        max_memory=room,
        no_split_module_classes=list(model._no_split_modules or ()),
        clean_result=False,
    )
    for name in held:
        _put(name, main, places, model)
    return dict(places)


def _put(name: str, place: int | str, places: dict[str, int | str], model: Any) -> None:
    """Change the place of one module; where a map names only what it lies in, divide that."""
    while name not in places:
        outer = _key_of(name, places)
        prefix = f"{outer}." if outer else ""
        inside = model.get_submodule(outer).named_children()
        places |= {f"{prefix}{child}": places[outer] for child, _ in inside}
        del places[outer]
    places[name] = place


def _key_of(name: str, places: Collection[str]) -> str:
    """Return the entry of the map that a parameter or module falls under."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return name


def _place_of(name: str, places: Mapping[str, int | str]) -> int | str:
    return places[_key_of(name, places)]


def _stored_names(model: Any, folder: Path) -> dict[str, str] | None:
    """Map every parameter's name to its name in the files; None if they lack one.

    Tied parameters have several names, of which files hold one.
    """
    names_of: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    found = names_in_files([name for names in names_of.values() for name in names], folder)
    shapes = TensorFolder(folder).shapes
    stored: dict[str, str] = {}
    for parameter in model.parameters():
        names = names_of[id(parameter)]
        place = next((found[own] for own in names if own in found), None)
        if place is None or shapes[place] != tuple(parameter.shape):
            return None
        stored |= dict.fromkeys(names, place)
    return stored


def _read_into_memory(
    model: Any,
    files: TensorFolder,
    stored: Mapping[str, str],
    place_of: Mapping[str, int | str],
) -> None:
    """Read weights that do not stay on disk, one at a time, and the buffers that files hold."""
    from torch import nn

    read: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if place_of[name] != "disk":
            values = files.read(stored[name]).to(parameter.dtype).to(place_of[name])
            read[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if id(parameter) in read:
                module._parameters[key] = read[id(parameter)]
    buffers = dict(model.named_buffers())
    for name, place in names_in_files(buffers, files.folder).items():
        buffers[name].copy_(files.read(place))
