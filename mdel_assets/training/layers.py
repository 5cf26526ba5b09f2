"""The trained layers of a model, for any causal LM of transformers.

Layers are found through the model's own layer list: the module list with
``config.num_hidden_layers`` entries. Outside it are embeddings, the head, and the final norm.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TrainingError
from mdel_assets.experiment.trained_layers import ENTRY, OUTSIDE, PARTS

if TYPE_CHECKING:
    from torch import nn

# GPT-NeoX's output layer is stored under another name than it has in memory.
_STORED_NAMES = {"lm_head.": ("lm_head.", "embed_out.")}


@dataclasses.dataclass(frozen=True)
class TrainedParts:
    """The trained parts of a model.

    ``prefixes`` are the prefixes of trained parameters' names, in memory and in files. ``layers``
    are the indices of layers trained in whole or in part. ``first`` is the first layer that a
    gradient must reach, 0 if embeddings are trained.
    """

    prefixes: list[str]
    layers: list[int]
    first: int


def resolve_layers(trained_layers: str | Sequence[int | str], *, num_layers: int) -> list[int]:
    """Return the indices of the layers that ``trained_layers`` names, in whole or in part.

    Entries are indices (negative ones count from the end), ranges such as ``"9-13"`` (both ends
    included), either followed by a part (``"9-13.mlp"``), ``embeddings``, ``final_norm`` and
    ``head``; or the word ``all`` instead of the list. The result ascends.

    Raises:
        TrainingError: an index out of range, a repeat, an entry of another form, or none at all.

    """
    if trained_layers == "all":
        return list(range(num_layers))
    layers = sorted({layer for layer, _ in _layer_parts(trained_layers, num_layers)})
    if not layers and not any(entry in OUTSIDE for entry in trained_layers):
        raise TrainingError("training.trained_layers is empty: nothing would be trained.")
    return layers


def resolve_parts(model: "nn.Module", trained_layers: str | Sequence[int | str]) -> TrainedParts:
    """Return what ``trained_layers`` names in ``model``; entries are those of `resolve_layers`.

    Raises:
        TrainingError: as `resolve_layers`; a part that a layer does not have; a frozen tensor that
            is tied to a trained one.

    """
    num_layers = text_config(model.config).num_hidden_layers
    layers = resolve_layers(trained_layers, num_layers=num_layers)
    name = layer_list_name(model, num_layers=num_layers)
    if trained_layers == "all":
        return TrainedParts([f"{name}.{layer}." for layer in layers], layers, 0)
    prefixes: list[str] = []
    for layer, part in _layer_parts(trained_layers, num_layers):
        prefixes += _inside(model.get_submodule(f"{name}.{layer}"), f"{name}.{layer}", part)
    outside = [entry for entry in trained_layers if entry in OUTSIDE]
    for entry in outside:
        prefixes += _outside(model, name, str(entry))
    _refuse_half_tied(model, prefixes)
    first = 0 if "embeddings" in outside else min(layers, default=num_layers)
    stored = [other for prefix in prefixes for other in _STORED_NAMES.get(prefix, (prefix,))]
    return TrainedParts(stored, layers, first)


def _layer_parts(
    trained_layers: Sequence[int | str], num_layers: int
) -> list[tuple[int, str | None]]:
    """Return (layer, part) pairs in the order given; part None is the whole layer."""
    found: list[tuple[int, str | None]] = []
    for entry in trained_layers:
        if entry in OUTSIDE:
            continue
        match = ENTRY.fullmatch(str(entry))
        if match is None:
            raise TrainingError(
                f"training.trained_layers: '{entry}' is not valid. Expected an index, a range such "
                f"as 9-13, either with a part such as 9-13.mlp, or one of {', '.join(OUTSIDE)}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        for index in range(first, last + 1):
            if not -num_layers <= index < num_layers:
                raise TrainingError(
                    f"training.trained_layers: layer {index} does not exist; the seed model has "
                    f"{num_layers} layers, 0 to {num_layers - 1}. Correct the list."
                )
            found.append((index % num_layers, match[3]))
    wholes = {layer for layer, part in found if part is None}
    twice = {
        layer
        for layer, part in found
        if found.count((layer, part)) > 1 or (part is not None and layer in wholes)
    }
    if twice:
        raise TrainingError(f"training.trained_layers names layers {sorted(twice)} twice.")
    return found


def _inside(layer: "nn.Module", name: str, part: str | None) -> list[str]:
    """Return the prefixes of a layer's ``part``."""
    if part is None:
        return [f"{name}."]
    own = [child for child, _ in layer.named_children()]
    wanted = PARTS.get(part, (part,))
    chosen = [
        child
        for child in own
        if child in wanted or (part == "norms" and any(sign in child for sign in wanted))
    ]
    if not chosen:
        raise TrainingError(
            f"training.trained_layers: layers of this model have no part '{part}'. They have: "
            f"{', '.join(own)}; {', '.join(PARTS)} name them in any model."
        )
    return [f"{name}.{child}." for child in chosen]


def _outside(model: Any, layers_name: str, entry: str) -> list[str]:
    """Return the prefixes of the embeddings, the final norm, or the head."""
    from torch import nn

    output = model.get_output_embeddings()
    found = {kind: [] for kind in OUTSIDE}  # type: dict[str, list[str]]
    for name, module in model.named_modules():
        if name.startswith(layers_name) or not list(module.parameters(recurse=False)):
            continue
        kind = "head" if module is output else "final_norm"
        kind = "embeddings" if isinstance(module, nn.Embedding) else kind
        found[kind].append(f"{name}.")
    if not found[entry]:
        raise TrainingError(
            f"training.trained_layers: {type(model).__name__} has no {entry} with weights."
        )
    return found[entry]


def _refuse_half_tied(model: "nn.Module", prefixes: Sequence[str]) -> None:
    """Refuse to train a tensor under one name while its other name stays frozen."""
    names_of: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(tensor), []).append(name)
    for names in names_of.values():
        trained = [name for name in names if name.startswith(tuple(prefixes or ["\0"]))]
        if trained and len(trained) < len(names):
            frozen = ", ".join(sorted(set(names) - set(trained)))
            raise TrainingError(
                f"{trained[0]} would be trained and {frozen} frozen, but in this model they are "
                f"one tensor (tied weights). Name both embeddings and head in "
                f"training.trained_layers, or neither."
            )


def layer_list_name(model: "nn.Module", *, num_layers: int) -> str:
    """Return the name of the module list that holds the model's layers.

    Raises:
        TrainingError: no list, or several unrelated ones, are as long as ``num_layers``.

    """
    from torch import nn

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    # Layers may contain lists, such as a mixture's experts: the outermost list counts.
    outer = [
        n for n in names if not any(n.startswith(other + ".") for other in names if other != n)
    ]
    if len(outer) != 1:
        raise TrainingError(
            f"{type(model).__name__} has {len(outer)} lists of {num_layers} layers ({outer}); "
            f"exactly one is needed to tell which layers to train."
        )
    return str(outer[0])


def put_layers(model: "nn.Module", name: str, layers: "nn.ModuleList") -> None:
    """Put ``layers`` where the model's layer list called ``name`` is."""
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, layers)


def freeze_all_but(model: "nn.Module", prefixes: Sequence[str]) -> tuple[int, int]:
    """Let only parameters under ``prefixes`` be trained; return (trained, frozen) counts."""
    counts = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        is_trained = name.startswith(tuple(prefixes))
        parameter.requires_grad_(is_trained)
        counts[is_trained] += parameter.numel()
    return counts[True], counts[False]


def text_config(config: Any) -> Any:
    """Return the part of a model configuration that describes the text model."""
    return config.get_text_config(decoder=True)
