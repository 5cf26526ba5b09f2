"""A cache of hidden states below the layers that change, for repeated scoring of the same texts.

A search scores many models that differ only in their upper layers, on the same documents. The
output of the layers below for a batch is computed once and then read from a file, so another model
costs only the upper layers and the output layer.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import xxhash

from mdel_assets.scoring.shared_trunk import SharedTrunk
from mdel_assets.store.tensor_files import bytes_of

if TYPE_CHECKING:
    import torch


class KeptStates:
    """The hidden states of batches, in a temporary file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed on leaving)
        self._file = self._stack.enter_context(file)
        self._places: dict[str, tuple[int, torch.Size, torch.dtype]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, ids_BT: "torch.Tensor") -> "torch.Tensor | None":
        """Return the states of a batch, or None if they are not cached."""
        import torch

        place = self._places.get(_key(ids_BT))
        if place is None:
            return None
        start, shape, dtype = place
        found = torch.empty(shape, dtype=dtype)
        buffer = bytes_of(found)
        done = 0
        while done < len(buffer):
            done += os.preadv(self._file.fileno(), [buffer[done:]], start + done)
        return found.to(ids_BT.device)

    def keep(self, ids_BT: "torch.Tensor", states_BTD: "torch.Tensor") -> None:
        """Keep the states of a batch."""
        stored = states_BTD.detach().contiguous().cpu()
        start = self._file.seek(0, os.SEEK_END)
        buffer = bytes_of(stored)
        done = 0
        while done < len(buffer):
            done += self._file.write(buffer[done:])
        self._places[_key(ids_BT)] = (start, stored.shape, stored.dtype)


class KeptTrunk(SharedTrunk):
    """The first ``num_layers`` layers of one model, run once for each batch ever seen."""

    def __init__(self, models: Sequence[Any], *, num_layers: int, states: KeptStates) -> None:
        super().__init__(models, num_layers=num_layers)
        self._states = states

    def run(self, ids_BT: "torch.Tensor") -> None:
        """Compute the output of the first layers for ``ids_BT``, or take it from the cache."""
        import torch

        if not self.num_layers:
            return
        kept = self._states.get(ids_BT)
        if kept is not None:
            self._output = kept
            return
        super().run(ids_BT)
        # A layer that returns more than one tensor runs every time.
        if isinstance(self._output, torch.Tensor):
            self._states.keep(ids_BT, self._output)


def _key(ids_BT: "torch.Tensor") -> str:
    digest = xxhash.xxh3_128_hexdigest(ids_BT.cpu().numpy().tobytes())
    return f"{tuple(ids_BT.shape)} {digest}"
