"""Facts from tensor names: which names mean one tensor, a tensor's layer, and its depth.

Only names decide: there is no table of architectures.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable

# GPT-NeoX's output layer has had two names in transformers: they are one tensor.
_OTHER_NAMES = {"embed_out.weight": "lm_head.weight"}
# Masks and rotary frequencies, which transformers rebuilds and no longer saves.
_REBUILT = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|position_ids|(attn|attention)\.(masked_)?bias)$"
)
_LAYER = re.compile(r"^(.+?\.)(\d+)\.")
_INPUT_EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared)(\.|$)")


def common_names(names: Iterable[str]) -> dict[str, str]:
    """Map each tensor's common name to the name that a model stores it under.

    Buffers that transformers rebuilds are left out.
    """
    return {_OTHER_NAMES.get(n, n): n for n in names if not _REBUILT.search(n)}


def common_name(name: str) -> str:
    """Return the common name of one tensor."""
    return _OTHER_NAMES.get(name, name)


def is_input_embedding(name: str) -> bool:
    """Whether a tensor's name is one of an input embedding, of words or of positions."""
    return bool(_INPUT_EMBEDDING.search(name)) and name not in _OTHER_NAMES


@dataclasses.dataclass(frozen=True)
class Layers:
    """A model's list of layers, as its tensors' names show it: ``prefix`` and how many."""

    prefix: str
    num_layers: int

    @classmethod
    def of(cls, names: Iterable[str]) -> "Layers":
        """Return the list that contains most of ``names``; an empty one if there is none."""
        numbers: dict[str, list[int]] = collections.defaultdict(list)
        for name in names:
            if match := _LAYER.match(name):
                numbers[match[1]].append(int(match[2]))
        if not numbers:
            return cls("", 0)
        prefix = max(numbers, key=lambda p: (len(numbers[p]), p))
        return cls(prefix, max(numbers[prefix]) + 1)

    def index_of(self, name: str) -> int | None:
        """Return the number of a tensor's layer; None outside all layers."""
        match = _LAYER.match(name)
        return int(match[2]) if match and match[1] == self.prefix else None

    def part_of(self, name: str) -> str:
        """Return a tensor's name inside its layer; its whole name outside all layers."""
        match = _LAYER.match(name)
        return name[match.end() :] if match and match[1] == self.prefix else name

    def depth_of(self, name: str) -> float:
        """Return a tensor's depth: 0 in the first layer, 1 in the last.

        Input embeddings have the depth of the first layer; other tensors outside the layers (the
        final norm, the output layer) have that of the last.
        """
        index = self.index_of(name)
        if index is not None:
            return index / (self.num_layers - 1) if self.num_layers > 1 else 1.0
        return 0.0 if is_input_embedding(name) else 1.0


def matches_filter(filter_text: str, name: str) -> bool:
    """Whether ``filter_text`` occurs in a tensor's name; numbers match whole.

    ``layers.1`` matches ``layers.1.mlp.weight`` and not ``layers.12.mlp.weight``.
    """
    if filter_text == "*":
        return True
    before = r"(?<!\d)" if filter_text[:1].isdigit() else ""
    after = r"(?!\d)" if filter_text[-1:].isdigit() else ""
    return re.search(before + re.escape(filter_text) + after, name) is not None
