"""Which layers of a model are trained, for any causal LM of transformers.

The model's own layer list decides: the module list as long as ``config.num_hidden_layers``. No
architecture is named anywhere.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")


def resolve_layers(trained_layers: str | Sequence[int | str], *, num_layers: int) -> list[int]:
    """Return the indices that ``trained_layers`` names, ascending.

    Entries are indices (negative ones count from the end), ranges such as ``"9-13"`` (both ends
    included), or the word ``all`` in place of the list.

    Raises:
        TrainingError: an index out of range, a repeat, an entry of another form, or none at all.

    """
    if trained_layers == "all":
        return list(range(num_layers))
    found: list[int] = []
    for entry in trained_layers:
        match = _RANGE.fullmatch(str(entry))
        if match is None:
            raise TrainingError(
                f"training.trained_layers: '{entry}' is neither an index nor a range such as 9-13."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        for index in range(first, last + 1):
            if not -num_layers <= index < num_layers:
                raise TrainingError(
                    f"training.trained_layers: layer {index} does not exist; the seed model has "
                    f"{num_layers} layers, 0 to {num_layers - 1}. Correct the list."
                )
            found.append(index % num_layers)
    if repeats := {index for index in found if found.count(index) > 1}:
        raise TrainingError(f"training.trained_layers names layers {sorted(repeats)} twice.")
    if not found:
        raise TrainingError("training.trained_layers is empty: nothing would be trained.")
    return sorted(found)


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
    # Experts of a mixture or the like may lie inside the layers: the outermost list counts.
    outer = [
        n for n in names if not any(n.startswith(other + ".") for other in names if other != n)
    ]
    if len(outer) != 1:
        raise TrainingError(
            f"{type(model).__name__} has {len(outer)} lists of {num_layers} layers ({outer}); "
            f"exactly one is needed to tell which layers to train."
        )
    return str(outer[0])


def trained_prefixes(model: "nn.Module", layers: Sequence[int], *, num_layers: int) -> list[str]:
    """Return the parameter name prefixes of ``layers``, such as ``gpt_neox.layers.3.``."""
    name = layer_list_name(model, num_layers=num_layers)
    return [f"{name}.{layer}." for layer in layers]


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
