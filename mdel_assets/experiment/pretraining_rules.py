"""Rules for the configuration in ``seed_model.pretrain.model``, checked before building it."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from mdel_assets.errors import unknown_name_message
from mdel_assets.model_families.settings import (
    activation_names,
    causal_model_types,
    family_of,
    setting,
)

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "head_dim",
)
_LARGEST = 10**7
_OF_THE_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_SIMILARITY = 0.85


def mistakes_in_model(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield why no language model can be built of a transformers configuration."""
    model_type = model.get("model_type")
    known = causal_model_types()
    if not isinstance(model_type, str) or (known and model_type not in known):
        yield unknown_name_message("model_type", str(model_type), known)
        return
    for key in _OF_THE_TOKENIZER:
        if key in model:
            yield f"remove '{key}': the tokenizer, which is trained first, determines it"
    yield from _misspelled(model_type, model)
    yield from _unknown_activations(model_type, model)
    sizes = {}
    for name in _SIZES:
        size = setting(model, name)
        if size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _LARGEST:
            yield f"{name} is {size!r}, expected a whole number from 1 to {_LARGEST:,}"
        else:
            sizes[name] = size
    hidden, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    if hidden and heads and hidden % heads and _divides_its_heads(model_type):
        yield (
            f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}: all heads "
            f"have the same size"
        )


def _divides_its_heads(model_type: str) -> bool:
    """Whether heads of a family share the hidden size, as its own default has it."""
    family = {"model_type": model_type}
    hidden, heads = (setting(family, name) for name in ("hidden_size", "num_attention_heads"))
    return not setting(family, "head_dim") and bool(hidden and heads and hidden % heads == 0)


def _unknown_activations(model_type: str, model: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings that name no activation function, where the family's default is one."""
    known = activation_names()
    for key, value in model.items():
        default = setting({"model_type": model_type}, key)
        is_activation = key in _ACTIVATIONS or ("act" in key and default in known)
        if known and is_activation and isinstance(value, str) and value not in known:
            yield f"{key}: {unknown_name_message('activation function', value, known)}"


def _misspelled(model_type: str, model: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys that the family does not know and that resemble one that it does.

    Transformers takes any key in silence, older names among them: one that resembles nothing is
    left to it.
    """
    family = family_of(model_type)
    if family is None or not family.is_whole:
        return
    known = [*family.defaults, *family.own_names]
    for key in model:
        if key not in known and difflib.get_close_matches(key, known, cutoff=_SIMILARITY):
            yield unknown_name_message("key", key, known)
