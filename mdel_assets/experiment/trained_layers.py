"""Which entries name layers to train, as far as it can be told without the model."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

ENTRY = re.compile(r"(-?\d+)(?:-(\d+))?(?:\.(\w+))?")
# What lies outside of a model's layers.
OUTSIDE = ("embeddings", "final_norm", "head")
# What parts of a layer are called in the families of transformers.
PARTS = {
    "attention": ("attention", "self_attn", "attn", "self_attention"),
    "mlp": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
    "norms": ("norm", "ln_"),
}


def layers_mistake(trained_layers: Sequence[Any], *, num_layers: int | None = None) -> str | None:
    """Return why no seed model, or none of ``num_layers``, has the layers of a list; else None.

    Entries are those of `training.layers.resolve_layers`. Only the model itself tells which
    parts a layer has.
    """
    if not trained_layers:
        return "the list is empty: nothing would be trained"
    mistakes = []
    for entry in trained_layers:
        match = None if isinstance(entry, bool) else ENTRY.fullmatch(str(entry))
        if entry in OUTSIDE:
            continue
        if match is None:
            mistakes.append(
                f"{entry!r} is not valid; expected an index, a range such as 9-13, either with a "
                f"part such as 9-13.mlp, or one of {', '.join(OUTSIDE)}"
            )
        elif match[2] and int(match[2]) < int(match[1]):
            mistakes.append(f"'{entry}' runs backwards: write '{match[2]}-{match[1]}'")
        elif num_layers and (beyond := _beyond(match, num_layers)) is not None:
            mistakes.append(
                f"layer {beyond} does not exist; the seed model has {num_layers} layers, 0 to "
                f"{num_layers - 1}"
            )
    return "; ".join(mistakes) or None


def _beyond(match: re.Match[str], num_layers: int) -> int | None:
    """Return an end of an entry's range that a model of ``num_layers`` does not have."""
    ends = (int(match[1]), int(match[2] or match[1]))
    return next((end for end in ends if not -num_layers <= end < num_layers), None)


def trains_part(trained_layers: str | Sequence[int | str], part: str) -> bool:
    """Whether the list, or the word ``all``, has a layer whole or names ``part`` of one."""
    if trained_layers == "all":
        return True
    matches = [ENTRY.fullmatch(str(entry)) for entry in trained_layers]
    return any(match and match[3] in (None, *PARTS[part]) for match in matches)


def _layers_setting(content: Any) -> Any:
    """Return ``trained_layers`` unchanged; raise if no model could have such layers."""
    if content == "all":
        return content
    if not isinstance(content, list | tuple):
        raise ValueError(f"expected 'all' or a list such as [9, 10, '11-13.mlp'], got {content!r}")  # noqa: TRY004
    if mistake := layers_mistake(content):
        raise ValueError(mistake)
    return content


TrainedLayers = Annotated[Literal["all"] | tuple[int | str, ...], BeforeValidator(_layers_setting)]
