"""Batches of windows on their way to a device, and their scores on the way back."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mdel_assets.scoring.windows import Window

if TYPE_CHECKING:
    import torch

# Shapes in names: B windows of a batch, T positions, S scored tokens.
# A GPU's libraries make a new plan for every length.
_LENGTHS_IN_STEPS_OF = {"cpu": 1, "cuda": 64}


def batches_of(
    work: list[tuple[int, Window]], tokens_per_batch: int
) -> list[list[tuple[int, Window]]]:
    """Cut ``work``, sorted by falling length, into batches of at most so many padded tokens."""
    batches: list[list[tuple[int, Window]]] = []
    for item in work:
        longest = len(batches[-1][0][1].inputs) if batches else 0
        if not batches or longest * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(item)
    return batches


class Inputs:
    """A batch of windows as tensors on a device, the same for every model."""

    def __init__(self, windows: list[Window], device: "torch.device", *, max_length: int) -> None:
        import torch

        step = _LENGTHS_IN_STEPS_OF[device.type]
        longest = max(len(window.inputs) for window in windows)
        longest = min(-(-longest // step) * step, max_length)
        ids_BT = torch.zeros((len(windows), longest), dtype=torch.int64)
        rows: list[NDArray[np.int64]] = []
        for row, window in enumerate(windows):
            length = len(window.inputs)
            ids_BT[row, :length] = torch.as_tensor(window.inputs)
            rows.append(row * longest + np.arange(length - len(window.targets), length))
        targets = np.concatenate([np.asarray(window.targets, np.int64) for window in windows])
        self.ids_BT = _sent(ids_BT, device)
        self.rows_S = _sent(torch.from_numpy(np.concatenate(rows)), device)
        self.targets_S = _sent(torch.from_numpy(targets), device)


def _sent(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Return ``tensor``, copied to ``device`` asynchronously."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Scores:
    """The scores of a batch under the model number ``index``, copied from its device."""

    def __init__(
        self, index: int, batch: list[tuple[int, Window]], values_S: "torch.Tensor"
    ) -> None:
        import torch

        self.index = index
        self.batch = batch
        self._values_S = values_S
        self._arrival: torch.cuda.Event | None = None
        if values_S.is_cuda:
            self._values_S = torch.empty(len(values_S), dtype=values_S.dtype, pin_memory=True)
            self._values_S.copy_(values_S, non_blocking=True)
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record()

    def values(self) -> NDArray[np.float32]:
        """Return the (S,) scores, once they have arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found: NDArray[np.float32] = self._values_S.numpy()
        return found


def spread(
    values_S: NDArray[np.float32],
    batch: list[tuple[int, Window]],
    scores: list[NDArray[np.float32]],
) -> None:
    """Put a batch's values, window by window, into their documents' places."""
    done = 0
    for number, window in batch:
        count = len(window.targets)
        scores[number][window.start : window.start + count] = values_S[done : done + count]
        done += count
