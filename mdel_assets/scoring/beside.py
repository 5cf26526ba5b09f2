"""Load a model that shares most of its weights with one in memory.

The second model uses copies of the first one's modules, and the same weights wherever both files
hold the same bytes. So further experts of one seed cost only the memory and time of their trained
weights.
"""

import copy
import json
from pathlib import Path
from typing import Any

from mdel_assets.errors import MdelError
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.trained_model import names_in_files

# Keys in which the configurations of equal architectures may differ.
_NO_MATTER = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def load_beside(first: Any, first_folder: Path, folder: Path) -> tuple[Any, int] | None:
    """Return the model in ``folder``, and the bytes that it takes besides ``first``'s weights.

    ``first`` is the model of ``first_folder`` as it was loaded, in any precision; the second
    model's weights get the same precision. None if the two configurations differ, or if the files
    store tensors in another form than the models: then the model must be loaded normally.
    """
    from torch import nn

    if _configuration(first_folder) != _configuration(folder):
        return None
    try:
        files = TensorFolder(first_folder), TensorFolder(folder)
    except MdelError:
        return None
    if files[0].shapes != files[1].shapes or files[0].dtypes != files[1].dtypes:
        return None
    wanted = [name for name, _ in first.named_parameters()]
    names = names_in_files(wanted, first_folder)
    if len(names) < len(wanted):
        return None
    # Weights and buffers are the first one's until they are replaced.
    own = {id(tensor): tensor for tensor in (*first.parameters(), *first.buffers())}
    model = copy.deepcopy(first, own)
    replaced: dict[int, nn.Parameter] = {}
    with files[0] as ours, files[1] as theirs:
        if not all(ours.has_same(name, theirs) for name in ours.shapes.keys() - names.values()):
            return None
        for name, parameter in first.named_parameters():
            place = names[name]
            if not ours.has_same(place, theirs):
                values = theirs.read(place).to(parameter.dtype).to(parameter.device)
                replaced[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for module in model.modules():
        for key, tensor in list(module._parameters.items()):
            if tensor is not None and id(tensor) in replaced:
                module._parameters[key] = replaced[id(tensor)]
    return model, sum(new.numel() * new.element_size() for new in replaced.values())


def _configuration(folder: Path) -> object:
    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return object()
    return {name: value for name, value in content.items() if name not in _NO_MATTER}
