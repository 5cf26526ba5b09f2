"""A trained model on disk: the seed's files, with the trained tensors replaced.

``full`` is a copy of the seed's files in which the trained tensors are overwritten. ``delta`` has
links to the seed's weight files and one more file with the trained tensors; the index says which
tensor is in which file. ``from_pretrained``, merging and scoring read both, to the same bits. A
link takes no space, and its file stays whole when the seed model is remade.
"""

import gc
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mdel_assets.errors import TrainingError
from mdel_assets.store.carry_over import carry_over
from mdel_assets.store.durable_files import link_or_copy
from mdel_assets.store.tensor_files import (
    INDEX_NAME,
    TensorFolder,
    bytes_of,
    torch_dtype,
    weight_files,
)
from mdel_assets.store.tensor_names import common_name, common_names
from mdel_assets.training.model_files import load_model, load_tokenizer

if TYPE_CHECKING:
    import torch

Store = Literal["full", "delta"]


def save_trained(
    tensors: "Mapping[str, torch.Tensor]", folder: Path, *, seed_folder: Path, store: Store
) -> None:
    """Save the model of ``seed_folder`` with ``tensors``, by name, in place of its own.

    Every tensor is stored in the dtype that the seed stores it in.
    """
    if store == "delta":
        _save_delta(tensors, folder, seed_folder=seed_folder)
        return
    names = names_in_files(tensors, seed_folder)
    if len(names) == len(tensors):
        _save_copy({names[name]: tensor for name, tensor in tensors.items()}, folder, seed_folder)
        return
    # The files store tensors in another form than the model: the library converts them.
    model = load_model(seed_folder, dtype="auto")
    put_tensors(model, tensors)
    model.save_pretrained(folder)
    load_tokenizer(seed_folder).save_pretrained(folder)
    del model
    gc.collect()


def _save_copy(tensors: "Mapping[str, torch.Tensor]", folder: Path, seed_folder: Path) -> None:
    """Copy the seed's files, and write ``tensors``, by their names there, over its own."""
    for part in weight_files(seed_folder):
        shutil.copyfile(part, folder / part.name)
    if (seed_folder / INDEX_NAME).is_file():
        shutil.copyfile(seed_folder / INDEX_NAME, folder / INDEX_NAME)
    write_over(folder, tensors)
    carry_over(seed_folder, folder, dtype=None)


def write_over(folder: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Write tensors, by their names in the files of ``folder``, over those that they hold."""
    stored = TensorFolder(folder).stored
    for name, values in tensors.items():
        place = stored[name]
        with place.path.open("r+b") as file:
            file.seek(place.start)
            file.write(bytes_of(values.to(torch_dtype(place.dtype))))


def take_stored_values(model: Any, names: Collection[str], folder: Path) -> bool:
    """Give the parameters called ``names`` the values that the model in ``folder`` stores for them.

    Return False, and do nothing, if the files store one of them in another form.
    """
    stored = names_in_files(names, folder)
    if len(stored) < len(names):
        return False
    own = dict(model.named_parameters())
    with TensorFolder(folder) as files:
        for name, place in stored.items():
            own[name].data.copy_(files.read(place))
    return True


def put_tensors(model: Any, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Let parameters of ``model`` have the values of ``tensors``, rounded to their own dtype."""
    own = dict(model.named_parameters())
    for name, values in tensors.items():
        own[name].data.copy_(values)


def stored_names(names: Iterable[str], seed_folder: Path) -> dict[str, str]:
    """Map parameters' names to those that the seed's files have for them.

    Raises:
        TrainingError: the files hold a parameter in another form than the model does in memory.

    """
    wanted = list(names)
    found = names_in_files(wanted, seed_folder)
    if missing := sorted(set(wanted) - found.keys()):
        raise TrainingError(
            f"training.store is delta, but the seed's files have no tensor '{missing[0]}': the "
            f"files of this model family store tensors in another form. Use store: full."
        )
    return found


def stored_prefixes(model: Any, prefixes: list[str], seed_folder: Path) -> list[str]:
    """Return the prefixes of the trained tensors' names in the seed's files.

    These are ``prefixes``, those of the names in memory, if they match the same tensors in the
    seed's files. Some families store tensors in another form; for them the full names are returned,
    as the library writes them.
    """
    from transformers.core_model_loading import revert_weight_conversion

    trained = {
        name: tensor.detach().to("meta")
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }
    written = set(revert_weight_conversion(model, trained))
    named = {name for name in TensorFolder(seed_folder).shapes if name.startswith(tuple(prefixes))}
    return prefixes if named == written else sorted(written)


def names_in_files(names: Iterable[str], folder: Path) -> dict[str, str]:
    """Map parameters' names to their names in a model's files, if the files have them."""
    common = common_names(TensorFolder(folder).shapes)
    wanted = {name: common.get(common_name(name)) for name in names}
    return {name: stored for name, stored in wanted.items() if stored is not None}


def _save_delta(tensors: "Mapping[str, torch.Tensor]", folder: Path, *, seed_folder: Path) -> None:
    from safetensors.torch import save_file

    names = stored_names(tensors, seed_folder)
    parts = weight_files(seed_folder)
    count = len(parts) + 1
    # Where files hold a tensor twice, libraries that read them in order keep the last one.
    linked = {part: f"model-{n:05}-of-{count:05}.safetensors" for n, part in enumerate(parts, 1)}
    trained = f"model-{count:05}-of-{count:05}.safetensors"
    with TensorFolder(seed_folder) as seed:
        changed = {
            names[name]: values.to(torch_dtype(seed.dtypes[names[name]])).contiguous()
            for name, values in tensors.items()
        }
        places = {name: linked[tensor.path] for name, tensor in seed.stored.items()}
        total = sum(tensor.size_bytes for tensor in seed.stored.values())
    for part, name in linked.items():
        link_or_copy(part, folder / name)
    save_file(changed, folder / trained, metadata={"format": "pt"})
    places |= dict.fromkeys(changed, trained)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    carry_over(seed_folder, folder, dtype=None)
