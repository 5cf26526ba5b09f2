"""Merges of slices: the merged model's layers come from chosen layers of its models.

A slice takes as many layers of each of its models and merges them like whole models; slices are
stacked in the recipe's order. What lies before the layers (input embeddings) is merged from the
models of the first slice, and what lies after them (final norm, output layer) from those of the
last. Nothing here depends on an architecture: a tensor's name tells its layer.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.errors import MergeError
from mdel_assets.merging.members import SlicedMember, SliceMembers
from mdel_assets.merging.sources import Source
from mdel_assets.store.tensor_headers import StoredTensor
from mdel_assets.store.tensor_names import Layers

# What configurations call the number of layers.
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclasses.dataclass(frozen=True)
class Part:
    """Tensors of the merged model that are merged from the same models, the base last if any.

    By common name: ``stored_names`` are their names in the merged model's files, ``depths`` run
    from 0 to 1. ``parameters`` go before the recipe's.
    """

    sources: tuple[Source, ...]
    has_base: bool
    stored_names: Mapping[str, str]
    depths: Mapping[str, float]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def whole(cls, sources: Sequence[Source], *, has_base: bool) -> "Part":
        """Return all tensors of whole models."""
        names = sources[0].own_names
        layers = Layers.of(names)
        depths = {name: layers.depth_of(own) for name, own in names.items()}
        return cls(tuple(sources), has_base, names, depths)


def parts_of(slices: Sequence[SliceMembers], sources: Mapping[str, Source]) -> Iterator[Part]:
    """Yield the parts of the merged model; ``sources`` are its models by their names in slices.

    Raises:
        MergeError: a model has fewer layers than a slice takes of it, or the slices do not fit
            each other.

    """
    first = 0
    found = []
    for number, part in enumerate(slices):
        ends = (number == 0, number == len(slices) - 1)
        found.append(_part(part, sources, first=first, ends=ends))
        first += part.num_layers
    _refuse_misfits(found)
    yield from found


def _part(
    part: SliceMembers, sources: Mapping[str, Source], *, first: int, ends: tuple[bool, bool]
) -> Part:
    members = [*part.models, *([part.base] if part.base else [])]
    views = [_view(sources[one.name], one, first=first, ends=ends) for one in members]
    names, layers = views[0].own_names, Layers.of(sources[members[0].name].own_names)
    depths = {}
    for name in names:
        index = layers.index_of(name)
        if index is None:
            depths[name] = layers.depth_of(name)
        else:
            depths[name] = (index - first) / (part.num_layers - 1) if part.num_layers > 1 else 1.0
    stored = {n: own if layers.index_of(own) is None else n for n, own in names.items()}
    return Part(tuple(views), part.base is not None, stored, depths, part.parameters)


def _view(source: Source, cut: SlicedMember, *, first: int, ends: tuple[bool, bool]) -> Source:
    """Return a model's layers under the numbers that they have in the merged model.

    ``ends`` says whether what lies before its layers belongs to it, and what lies after them.
    """
    layers = Layers.of(source.own_names)
    if cut.last > layers.num_layers:
        raise MergeError(
            f"layer_range [{cut.first}, {cut.last}] reaches beyond {source.entry.name}, which has "
            f"{layers.num_layers} layers: expected at most {layers.num_layers} as its end. Correct "
            f"the recipe's slices."
        )
    names = {}
    for name, own in source.own_names.items():
        index = layers.index_of(name)
        if index is None:
            if ends[layers.depth_of(name) > 0.0]:
                names[name] = own
        elif cut.first <= index < cut.last:
            names[f"{layers.prefix}{index - cut.first + first}.{layers.part_of(name)}"] = own
    entry = dataclasses.replace(source.entry, parameters=cut.parameters)
    return dataclasses.replace(source, entry=entry, own_names=names)


def _refuse_misfits(parts: Sequence[Part]) -> None:
    """Raise `MergeError` where slices are of models of different widths."""
    layers = Layers.of(name for part in parts for name in part.stored_names)
    seen: dict[str, tuple[StoredTensor, Source]] = {}
    for part in parts:
        for source in part.sources:
            for name in source.own_names:
                if layers.index_of(name) is None:
                    # Each of these lies in one part, whose models are compared on their own.
                    continue
                inside, stored = layers.part_of(name), source.stored(name)
                expected, other = seen.setdefault(inside, (stored, source))
                # Layers of one model may differ, as mixtures' do.
                if stored.shape != expected.shape and source.tensors is not other.tensors:
                    raise MergeError(
                        f"These slices do not fit each other: {inside} is {list(stored.shape)} in "
                        f"{source.entry.name} and {list(expected.shape)} in {other.entry.name}. "
                        f"Take slices of models of one shape."
                    )


def write_layers(folder: Path, slices: Sequence[SliceMembers], places: Mapping[str, Path]) -> None:
    """Correct the configuration in ``folder``, which is that of a whole model, for its slices.

    Its number of layers becomes that of all slices together. Lists with an entry for each layer get
    the entries of the layers that were taken, each from its slice's first model in ``places``.

    Raises:
        MergeError: the configuration does not say how many layers there are.

    """
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    # Where a configuration has parts, layers are those of its language model.
    inner = config.get("text_config", config)
    names = [name for name in _LAYER_COUNTS if isinstance(inner.get(name), int)]
    if not names:
        raise MergeError(
            f"The configuration of the merged model has none of {', '.join(_LAYER_COUNTS)}, so its "
            f"number of layers cannot be changed. Merge whole models of this family."
        )
    count, total = inner[names[0]], sum(part.num_layers for part in slices)
    lists = [key for key, value in inner.items() if isinstance(value, list) and len(value) == count]
    for key in lists:
        inner[key] = [
            entry for part in slices for entry in _entries(key, part, places, default=inner[key])
        ]
    inner |= dict.fromkeys(names, total)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _entries(
    key: str, part: SliceMembers, places: Mapping[str, Path], *, default: Sequence[Any]
) -> Sequence[Any]:
    """Return a list's entries for a slice's layers, as its first model has them."""
    cut = part.models[0]
    config = json.loads((places[cut.name] / "config.json").read_text("utf-8"))
    own = config.get("text_config", config).get(key, default)
    return list(own[cut.first : cut.last])
