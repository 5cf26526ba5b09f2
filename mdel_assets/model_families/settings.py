"""Facts about transformers' model configurations, read from its source instead of imported.

Importing transformers loads torch, which takes seconds; mistakes in an experiment should be found
in a fraction of one. If the source cannot be read, the facts are unknown and nothing is refused.
"""

import ast
import dataclasses
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_LAYERS, _POSITIONS = "num_hidden_layers", "max_position_embeddings"


@dataclasses.dataclass(frozen=True)
class Family:
    """A configuration class: its plain defaults, and its own names for common settings.

    ``is_whole``: it inherits from no other family, so it has all settings itself.
    """

    defaults: Mapping[str, Any]
    own_names: Mapping[str, str]
    is_whole: bool


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """The sizes of a model that limit the settings; None if unknown."""

    num_layers: int | None
    max_positions: int | None


@functools.cache
def causal_model_types() -> tuple[str, ...]:
    """Return every ``model_type`` of a causal language model; an empty tuple if unknown."""
    found = _literal_of("models/auto/modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    return tuple(name for name, _ in found)


@functools.cache
def activation_names() -> tuple[str, ...]:
    """Return the name of every activation function; none where that is not known."""
    tree = _tree("activations.py")
    for node in tree.body if tree else ():
        match node:
            case ast.Assign(targets=[ast.Name(id="ACT2CLS")], value=ast.Dict(keys=keys)):
                return tuple(str(_plain(key)) for key in keys if key)
    return ()


@functools.cache
def family_of(model_type: str) -> Family | None:
    """Return the known facts about a family; None if there are none."""
    classes = dict(_literal_of("models/auto/auto_mappings.py", "CONFIG_MAPPING_NAMES"))
    modules = dict(_literal_of("models/auto/auto_mappings.py", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"))
    module = modules.get(model_type, model_type).replace("-", "_")
    tree = _tree(f"models/{module}/configuration_{module}.py")
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef) and node.name == classes.get(model_type):
            own = dict(_attributes(node))
            names = own.pop("attribute_map", None) or {}
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            return Family(own, names, is_whole=bases == {"PreTrainedConfig"})
    return None


def setting(config: Mapping[str, Any], name: str) -> Any:
    """Return a common setting of a model configuration, under its family's own name."""
    family = family_of(str(config.get("model_type", "")))
    own = family.own_names.get(name, name) if family else name
    for known in (name, own):
        if known in config:
            return config[known]
    return family.defaults.get(own) if family else None


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape of the text model of a configuration (the content of ``config.json``)."""
    if isinstance(inner := config.get("text_config"), dict):
        config = inner
    layers, positions = (setting(config, name) for name in (_LAYERS, _POSITIONS))
    return ModelShape(
        layers if isinstance(layers, int) else None,
        positions if isinstance(positions, int) else None,
    )


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Yield a class's attributes and their values; None for values that are not literals."""
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, _plain(value)
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, None
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, _plain(value)


def _plain(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _literal_of(path: str, name: str) -> list[tuple[str, Any]]:
    """Return the pairs of ``name = OrderedDict([...])`` in a module."""
    tree = _tree(path)
    for node in tree.body if tree else ():
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Call(args=[inside])):
                if found == name:
                    return list(_plain(inside) or [])
    return []


@functools.cache
def _tree(path: str) -> ast.Module | None:
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    try:
        return ast.parse((Path(spec.origin).parent / path).read_text("utf-8"))
    except (OSError, SyntaxError):
        return None
