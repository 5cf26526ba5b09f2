"""transformers' Trainer for training some layers of a model, and the watch over a run."""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback

from mdel_assets.errors import TrainingError
from mdel_assets.experiment_fields import Optimization

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 15.0
_WEIGHTS_NAME = "trained.safetensors"


class LayerTrainer(Trainer):  # type: ignore[misc, unused-ignore]
    """A Trainer whose checkpoints hold the trained tensors only; the others are the seed's."""

    def train_from(self, checkpoint: Path | None) -> None:
        """Train from the beginning, or go on from a checkpoint."""
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {n: t.detach().cpu().contiguous() for n, t in self._trained().items()}
        save_file(tensors, folder / _WEIGHTS_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        tensors = load_file(Path(resume_from_checkpoint) / _WEIGHTS_NAME)
        own = self._trained()
        if own.keys() != tensors.keys():
            raise TrainingError(
                f"{resume_from_checkpoint} holds other tensors than are trained now: "
                f"{sorted(own.keys() ^ tensors.keys())[:4]}. Remove "
                f"{Path(resume_from_checkpoint).parent}."
            )
        for name, tensor in own.items():
            tensor.data.copy_(tensors[name])

    def _trained(self) -> dict[str, Any]:
        assert self.model is not None
        return {n: tensor for n, tensor in self.model.named_parameters() if tensor.requires_grad}


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Stops a run at a non-finite loss; on SIGTERM and after ``max_seconds`` saves it and stops.

    Logs a line of progress every so often. ``stopped_for`` says why a run was stopped early.
    """

    def __init__(
        self, settings: Optimization, *, terminated: threading.Event, max_seconds: float | None
    ) -> None:
        self.settings = settings
        self.terminated = terminated
        self.max_seconds = max_seconds
        self.stopped_for = ""
        self.first_step = 0
        self.started = self.reported = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where the run begins."""
        self.first_step = state.global_step
        self.started = self.reported = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Refuse a loss or gradient norm that is not a finite number."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise TrainingError(
                    f"The {name} is {value} at step {state.global_step}: training diverged. Lower "
                    f"training.learning_rate ({self.settings.learning_rate}) or raise "
                    f"training.warmup_ratio; the last checkpoint is kept."
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at clock and signals."""
        now = time.monotonic()
        if state.global_step < self.settings.num_steps:
            if self.terminated.is_set():
                self.stopped_for = "it was told to end (SIGTERM)"
            elif self.max_seconds is not None and now - self.started > self.max_seconds:
                self.stopped_for = f"its {self.max_seconds:g} seconds are over"
            if self.stopped_for:
                control.should_save = control.should_training_stop = True
        if now - self.reported >= _PROGRESS_SECONDS:
            self.reported = now
            self._log_progress(state.global_step)

    def tokens_per_second(self, step: int) -> float:
        """Return the pace up to ``step``, since this process began."""
        tokens = (step - self.first_step) * self.settings.batch_size * self.settings.block_size
        return tokens / max(time.monotonic() - self.started, 1e-9)

    def _log_progress(self, step: int) -> None:
        settings, pace = self.settings, self.tokens_per_second(step)
        left = (settings.num_steps - step) * settings.batch_size * settings.block_size / pace
        message = "step %d of %d, %.0f tokens/s, %.0f s left"
        _log.info(message, step, settings.num_steps, pace, left)


@contextlib.contextmanager
def noticing_termination() -> Iterator[threading.Event]:
    """Give an event that SIGTERM sets, in place of what the signal does otherwise."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can hear of signals.
        yield terminated
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)
