"""A cache of hidden states at the first trained layer, for runs that read blocks more than once.

The layers below the first trained one never change, so their output for a block is computed once
and then read from a file. A resumed run finds the cached states and ends in the same bits as an
uninterrupted one.

`keep_prefix` tests whether a model allows this: layers that are random in training, or that pass on
more than hidden states, run every time.
"""

import copy
import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import nn

from mdel_assets.store.durable_files import exclusively
from mdel_assets.training.layers import layer_list_name, put_layers, text_config

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_STATES_NAME, _DIGESTS_NAME, _LOCK_NAME = "prefix.float32", "prefix.xxh3", "prefix.lock"
_PROBE_SHAPE = (2, 16)

# Shapes in names: N blocks, B blocks of a batch, T positions, D hidden width.


class SplitModel:
    """A model in two parts: the layers below the first trained one, and those above.

    ``lengths`` describes the output of each layer below: 0 for plain hidden states, else the length
    of a tuple that begins with them; the rest of the tuple is left out.
    """

    def __init__(self, model: Any, *, layers_name: str, lengths: list[int]) -> None:
        self._model = model
        self._name = layers_name
        self._own = model.get_submodule(layers_name)
        below, above = list(self._own)[: len(lengths)], list(self._own)[len(lengths) :]
        last = _standing_in(below[-1], self._keeping(below[-1].forward))
        self._whole = nn.ModuleList([*below[:-1], last, *above])
        recalled = map(self._recalling, lengths)
        self._rest = nn.ModuleList([*map(_standing_in, below, recalled), *above])
        self._states: Any = None

    def whole(self, ids_BT: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return the model's last hidden states, and those below the first trained layer."""
        return self._run(self._whole, ids_BT), self._states

    def above(self, ids_BT: "Tensor", states_BTD: "Tensor") -> "Tensor":
        """Return the last hidden states, computed by the layers above from the states below."""
        self._states = states_BTD
        return self._run(self._rest, ids_BT)

    def _run(self, layers: nn.ModuleList, ids_BT: "Tensor") -> "Tensor":
        put_layers(self._model, self._name, layers)
        try:
            return _last_hidden(self._model, ids_BT)
        finally:
            put_layers(self._model, self._name, self._own)

    def _keeping(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def keep(*arguments: Any, **options: Any) -> Any:
            given = forward(*arguments, **options)
            # Later code may compute in place.
            self._states = _states_in(given).detach().clone()
            return given

        return keep

    def _recalling(self, length: int) -> Callable[..., Any]:
        def recall(*_: Any, **__: Any) -> Any:
            return (self._states, *[None] * (length - 1)) if length else self._states

        return recall


class PrefixCache:
    """The states of N blocks of T tokens below the first trained layer, on disk.

    States count only with their digest: the system writes pages of both files when it likes, so a
    machine that stops at once may leave one without the other.
    """

    def __init__(
        self, split: SplitModel, *, like: "Tensor", shape_NT: tuple[int, int], folder: Path
    ) -> None:
        self._split = split
        self._dtype = like.dtype
        # The processes of one training share the files, and one of them makes them.
        with exclusively(folder / _LOCK_NAME):
            self._states_NTD = _file(folder / _STATES_NAME, (*shape_NT, like.shape[-1]), np.float32)
            self._digests_N = _file(folder / _DIGESTS_NAME, shape_NT[:1], np.uint64)

    def hidden(self, ids_BT: "Tensor", blocks_B: "Tensor") -> "Tensor":
        """Return the model's last hidden states of the blocks numbered ``blocks_B``."""
        numbers_B = blocks_B.cpu().numpy()
        if self._digests_N[numbers_B].all():
            kept_BTD = self._states_NTD[numbers_B]
            if np.array_equal(_digests(kept_BTD), self._digests_N[numbers_B]):
                states_BTD = torch.from_numpy(kept_BTD)
                return self._split.above(ids_BT, states_BTD.to(ids_BT.device, self._dtype))
        hidden_BTD, states_BTD = self._split.whole(ids_BT)
        new_BTD = states_BTD.float().cpu().numpy()
        self._states_NTD[numbers_B] = new_BTD
        self._digests_N[numbers_B] = _digests(new_BTD)
        return hidden_BTD


def _digests(states_BTD: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a digest of each block's states; 0, which an empty file holds, is none."""
    blocks = (np.ascontiguousarray(states_TD) for states_TD in states_BTD)
    return np.array([xxhash.xxh3_64_intdigest(block.data) or 1 for block in blocks], np.uint64)


def keep_prefix(
    model: Any, *, first_trained: int, shape_NT: tuple[int, int], folder: Path
) -> PrefixCache | None:
    """Return a cache for the layers below ``first_trained``; None if they cannot be cached.

    Three passes over a few tokens in training mode decide; the log gives the reason.
    """
    name = layer_list_name(model, num_layers=text_config(model.config).num_hidden_layers)
    rows = model.get_input_embeddings().weight.shape[0]
    ids_BT = torch.arange(math.prod(_PROBE_SHAPE), device=model.device).view(_PROBE_SHAPE) % rows
    with _in_training(model):
        passes = [_look(model, model.get_submodule(name)[:first_trained], ids_BT) for _ in range(2)]
        reason = _why_not(*passes, num_layers=first_trained, shape=ids_BT.shape)
        if reason is None:
            split = SplitModel(model, layers_name=name, lengths=passes[0].lengths)
            if _gives_the_same(split, ids_BT, passes[0]):
                like = passes[0].states_BTD
                return PrefixCache(split, like=like, shape_NT=shape_NT, folder=folder)
            reason = "the layers above read more of those below"
    _log.info("states below layer %d are not cached: %s", first_trained, reason)
    return None


@dataclasses.dataclass(frozen=True)
class _Pass:
    """The observations of one pass: the outputs of the layers below, and the final output.

    ``lengths`` are as in `SplitModel`, or -1 for a layer with another kind of output.
    ``random_state`` is the state before the pass, ``has_drawn`` whether the layers below used it.
    """

    random_state: "Tensor"
    has_drawn: bool
    lengths: list[int]
    states_BTD: "Tensor"
    hidden_BTD: "Tensor"


def _look(model: Any, layers: nn.ModuleList, ids_BT: "Tensor") -> _Pass:
    start = torch.get_rng_state()
    lengths: list[int] = []
    states, has_drawn = ids_BT, False

    def note(_layer: nn.Module, _inputs: Any, given: Any) -> None:
        nonlocal states, has_drawn
        lengths.append(_length(given))
        states = _states_in(given).clone() if lengths[-1] >= 0 else states
        has_drawn = not torch.equal(torch.get_rng_state(), start)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(note).remove)
        hidden_BTD = _last_hidden(model, ids_BT)
    return _Pass(start, has_drawn, lengths, states, hidden_BTD)


def _why_not(first: _Pass, second: _Pass, *, num_layers: int, shape: tuple[int, ...]) -> str | None:
    """Return the reason, from two passes over the same tokens, not to cache their states."""
    if first.has_drawn or not torch.equal(first.states_BTD, second.states_BTD):
        return "they are random in training"
    if len(first.lengths) != num_layers or min(first.lengths) < 0:
        return "the layers return something other than states, or do not each run once"
    if first.states_BTD.shape[:-1] != shape:
        return "they are not one vector for each token"
    return None


def _gives_the_same(split: SplitModel, ids_BT: "Tensor", seen: _Pass) -> bool:
    """Whether the layers above give the same result from cached states as in a whole pass."""
    torch.set_rng_state(seen.random_state)
    try:
        hidden_BTD = split.above(ids_BT, seen.states_BTD)
    except (TypeError, AttributeError, LookupError):
        # The layers above need an output that is left out of the cache.
        return False
    return torch.equal(hidden_BTD, seen.hidden_BTD)


def _last_hidden(model: Any, ids_BT: "Tensor") -> "Tensor":
    return model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def _states_in(given: Any) -> "Tensor":
    return given[0] if isinstance(given, tuple) else given  # type: ignore[no-any-return]


def _length(given: Any) -> int:
    """Return the length of a tuple that begins with states; 0 for plain states; else -1."""
    length = len(given) if isinstance(given, tuple) else 0
    return length if isinstance(_states_in(given), torch.Tensor) else -1


def _standing_in(layer: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """Return a copy of ``layer`` with another forward function."""
    # A copy keeps what a model may ask of a layer, such as the kind of its attention.
    copied = copy.copy(layer)
    copied.forward = forward
    return copied


@contextmanager
def _in_training(model: Any) -> Iterator[None]:
    """Let ``model`` run in training mode, and restore its state afterwards."""
    was_training = model.training
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(was_training)


def _file(path: Path, shape: tuple[int, ...], kind: Any) -> Any:
    """Open an array on disk; a new one is zero, with all of its space allocated at once."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape) * np.dtype(kind).itemsize))
        partial.rename(path)
    return np.memmap(path, kind, mode="r+", shape=shape)
