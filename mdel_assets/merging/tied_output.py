"""Tied output layers: one tensor with the input embedding, stored once or twice.

If a configuration ties the two, most libraries store only the embedding, and some also a copy of it
as ``lm_head.weight``. Models stored in either way can be merged with each other.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from mdel_assets.merging.sources import OUTPUT_NAME, Source
from mdel_assets.store.tensor_names import is_input_embedding

_ELEMENTS_AT_ONCE = 1 << 19


def with_one_form(sources: Sequence[Source], *, model_folder: Path) -> list[Source]:
    """Return the sources, all with an output layer or all without one, if this loses nothing.

    The merged model has the configuration in ``model_folder``. If that configuration, or a model's
    own, ties the output layer, a copy of the embedding is left out. Otherwise, a model without an
    output layer gets its embedding as output layer.
    """
    is_tied = ties_output(model_folder)
    found = [
        _without_output(source) if is_tied or ties_output(source.entry.folder) else source
        for source in sources
    ]
    if is_tied or not any(OUTPUT_NAME in source.own_names for source in found):
        return found
    return [_with_output(source) for source in found]


def ties_output(folder: Path) -> bool:
    """Whether a model's configuration ties its output layer to its input embedding."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    inner = config.get("text_config") or {}
    # The libraries' own default: configurations of older versions leave it out.
    return bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", True)))


def _without_output(source: Source) -> Source:
    """Return the source without its output layer, if that is a copy of its embedding."""
    if OUTPUT_NAME not in source.own_names:
        return source
    if not any(_is_same(source, OUTPUT_NAME, name) for name in _embeddings(source)):
        return source
    names = {name: own for name, own in source.own_names.items() if name != OUTPUT_NAME}
    return dataclasses.replace(source, own_names=names)


def _with_output(source: Source) -> Source:
    """Return the source with its embedding as output layer, if it is tied and has none."""
    embeddings = _embeddings(source)
    if OUTPUT_NAME in source.own_names or not embeddings or not ties_output(source.entry.folder):
        return source
    names = {**source.own_names, OUTPUT_NAME: source.own_names[embeddings[0]]}
    return dataclasses.replace(source, own_names=names)


def _embeddings(source: Source) -> list[str]:
    """Return the tensors that may be the input embedding.

    They have the output layer's shape. Without an output layer, the vocabulary is larger than the
    number of positions or token types.
    """
    found = [name for name in source.own_names if is_input_embedding(name)]
    if OUTPUT_NAME not in source.own_names:
        return sorted(found, key=lambda name: source.stored(name).num_elements)[-1:]
    wanted = source.stored(OUTPUT_NAME)
    stored = {name: source.stored(name) for name in found}
    return [n for n, t in stored.items() if (t.shape, t.dtype) == (wanted.shape, wanted.dtype)]


def _is_same(source: Source, name: str, other: str) -> bool:
    """Whether two tensors of one shape and dtype hold the same bytes."""
    import torch

    size = source.stored(name).num_elements
    for first in range(0, size, _ELEMENTS_AT_ONCE):
        last = min(first + _ELEMENTS_AT_ONCE, size)
        pair = (source.read_stored(each, first, last) for each in (name, other))
        if not torch.equal(*(numbers.view(torch.uint8) for numbers in pair)):
            return False
    return True
