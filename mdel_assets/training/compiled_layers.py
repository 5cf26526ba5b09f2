"""Compile a model's layers with torch, if a GPU has enough work to make up for it.

The operations between the matrix products (norms, rotations, activations, the residual stream,
rounding) are memory traffic, and a compiled layer needs a fraction of it. Layers are compiled in
place: all have the same code, so it is compiled once, and no parameter's name changes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mdel_assets.errors import TrainingError
from mdel_assets.training.layers import layer_list_name, text_config

_log = logging.getLogger(__name__)
# Floating-point operations. Compiling takes twenty seconds and saves a sixth of the time.
WORTH_COMPILING = 5e16


def layers_of(model: Any) -> list[Any]:
    """Return a model's own layers; an empty list if it has no list of them."""
    try:
        name = layer_list_name(model, num_layers=text_config(model.config).num_hidden_layers)
    except TrainingError:
        return []
    return list(model.get_submodule(name))


@contextmanager
def compiled(
    layers: Sequence[Any], *, num_operations: float, varies: bool = False
) -> Iterator[None]:
    """Run ``layers`` compiled within the context, if a GPU computes and it is worth it.

    ``num_operations`` estimates the operations of all layers together. With ``varies``, batches
    differ in shape. A layer that cannot be compiled runs uncompiled.
    """
    if num_operations < WORTH_COMPILING or not _can_compile():
        yield
        return
    import torch._dynamo

    _log.info("compiling %d layers for the GPU", len(layers))
    with torch._dynamo.config.patch(suppress_errors=True):
        try:
            for layer in layers:
                layer.compile(dynamic=True if varies else None)
            yield
        finally:
            for layer in layers:
                layer._compiled_call_impl = None


def _can_compile() -> bool:
    import importlib.util

    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
