"""transformers' Trainer for training some layers of a model, and the watch over a run."""

import math
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from mdel_assets.errors import DiskFullError, TrainingError
from mdel_assets.experiment.fields import Optimization
from mdel_assets.machine.processes import any_process
from mdel_assets.machine.progress import Progress
from mdel_assets.machine.termination import Termination
from mdel_assets.store.durable_files import explaining_full_disk
from mdel_assets.store.tensor_files import bytes_of
from mdel_assets.store.tensor_writer import TensorLayout, TensorWriter

# A kill loses at most so many seconds, or this share of a long run; saving takes at most a share.
_CHECKPOINT_SECONDS, _MAX_SHARE_LOST, _MAX_SHARE_OF_SAVING = 300.0, 0.02, 0.02
# At the end, a checkpoint is worth it only if retraining would take longer than saving.
_WORTH_A_LAST_CHECKPOINT_SECONDS = 60.0
_WEIGHTS_NAME = "trained.safetensors"
# What `LanguageModelLoss` puts before the names of its model's parameters.
_LOSS_PREFIX = "model."


class LayerTrainer(Trainer):  # type: ignore[misc, unused-ignore]
    """A Trainer whose checkpoints hold the trained tensors only; the others are the seed's."""

    watch: "Watch"

    def watched_by(self, watch: "Watch") -> Self:
        """Let ``watch`` measure the speed, and print nothing but its log."""
        self.remove_callback(PrinterCallback)
        self.watch = watch
        return self

    def create_accelerator_and_postprocess(self) -> None:
        """Shard parameters on CPUs too; the library does so only on accelerators."""
        super().create_accelerator_and_postprocess()
        plugin = self.args.fsdp_plugin_args
        if plugin is None or self.is_fsdp_enabled:
            return
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin)
        if self.args.bf16:
            state.fsdp_plugin.set_mixed_precision("bf16")
        self.is_fsdp_enabled = True

    def train_from(self, checkpoint: Path | None) -> None:
        """Train from the beginning, or resume from a checkpoint."""
        self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return the whole trained tensors by the model's own names, in fp32 on the CPU.

        All processes must call this together.
        """
        return {
            name.removeprefix(_LOSS_PREFIX): _whole(tensor).detach().cpu().contiguous()
            for name, tensor in self._trained().items()
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what the Trainer logs, and the speed since the last entry."""
        if "loss" in logs:
            logs["tokens_per_second"] = self.watch.pace_since_asked(self.state.global_step)
        super().log(logs, start_time)

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Evaluate, and restore the random state of the training.

        The data loader draws from it, so later dropout would differ.
        """
        device = self.args.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            found: dict[str, float] = super().evaluate(*arguments, **options)
        return found

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,  # noqa: FBT001  (the library's own way)
        ignore_keys: Any = None,
    ) -> tuple[Tensor, None, None]:
        """Return a batch's loss, which is all that the model gives."""
        prepared = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return model(**prepared)["loss"].detach(), None, None

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a complete checkpoint, or leave nothing of it."""
        folder = Path(str(self.args.output_dir))
        step = self.state.global_step
        started = time.monotonic()
        try:
            with explaining_full_disk(f"the checkpoint of step {step}", folder):
                super()._save_checkpoint(model, trial)
        except DiskFullError:
            shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
            raise
        self.watch.note_saving(time.monotonic() - started)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # Parts of sharded tensors come from all processes; one of them writes.
        tensors = self.trained_tensors() if self.args.should_save or self.is_fsdp_enabled else {}
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        layouts = [TensorLayout(name, tuple(t.shape), "F32") for name, t in tensors.items()]
        # The library would copy all of them in memory first.
        with TensorWriter(folder, layouts, weights_name=_WEIGHTS_NAME) as writer:
            for name, tensor in tensors.items():
                writer.write(name, bytes_of(tensor), offset=0)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        tensors = load_file(Path(resume_from_checkpoint) / _WEIGHTS_NAME)
        own = {name.removeprefix(_LOSS_PREFIX): t for name, t in self._trained().items()}
        if own.keys() != tensors.keys():
            raise TrainingError(
                f"{resume_from_checkpoint} holds other tensors than this training has: "
                f"{sorted(own.keys() ^ tensors.keys())[:4]}. Remove "
                f"{Path(resume_from_checkpoint).parent}."
            )
        for name, tensor in own.items():
            tensor.data.copy_(_placed_as(tensor, tensors[name]))

    def _trained(self) -> dict[str, Any]:
        assert self.model is not None
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        return {n: tensor for n, tensor in named if tensor.requires_grad}


def _whole(tensor: Any) -> Tensor:
    """Return the whole tensor, which may be sharded over the processes."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _placed_as(tensor: Any, values: Tensor) -> Tensor:
    """Return ``values`` sharded over the processes like ``tensor``."""
    if not hasattr(tensor, "full_tensor"):
        return values
    from torch.distributed.tensor import distribute_tensor

    device = tensor.to_local().device
    return distribute_tensor(values.to(device), tensor.device_mesh, tensor.placements)


class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Stops a run at a non-finite loss; saves and stops it when told to or after ``max_seconds``.

    It saves a checkpoint every five minutes (less often if saving or the run takes long), unless
    the settings give a number of steps. It logs progress at intervals. ``stopped_for`` says why a
    run was stopped early.
    """

    def __init__(
        self, settings: Optimization, *, termination: Termination, max_seconds: float | None
    ) -> None:
        self.settings = settings
        self.termination = termination
        self.max_seconds = max_seconds
        self.stopped_for = ""
        self.first_step = self.asked_step = 0
        self.started = self.asked = self.saved = time.monotonic()
        self.saving_seconds = 0.0
        self.progress = self._progress()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where the run begins."""
        self.first_step = self.asked_step = state.global_step
        self.started = self.asked = self.saved = time.monotonic()
        self.progress = self._progress()

    def note_saving(self, seconds: float) -> None:
        """Note that a checkpoint was just saved, in this many seconds."""
        self.saved, self.saving_seconds = time.monotonic(), seconds

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
        """Check the clock and the signals."""
        now = time.monotonic()
        if state.global_step < self.settings.num_steps:
            is_over = self.max_seconds is not None and now - self.started > self.max_seconds
            # All processes have to stop at the same step.
            if any_process(says=bool(self.termination.signal_name)):
                name = self.termination.signal_name or signal.SIGTERM.name
                self.stopped_for = f"it was told to end ({name})"
            elif any_process(says=is_over):
                self.stopped_for = f"its {self.max_seconds:g} seconds are over"
            if self.stopped_for:
                control.should_save = control.should_training_stop = True
        if self.settings.save_steps is None and any_process(says=self._is_saving_due(state, now)):
            control.should_save = True
        self.progress.reach(state.global_step)

    def _is_saving_due(self, state: Any, now: float) -> bool:
        done = max(1, state.global_step - self.first_step) / self.settings.num_steps
        worth = _MAX_SHARE_LOST * (now - self.started) / done
        slow = self.saving_seconds / _MAX_SHARE_OF_SAVING
        least: float = max(_CHECKPOINT_SECONDS, worth, slow)
        if state.global_step >= self.settings.num_steps:
            return now - self.saved > max(_WORTH_A_LAST_CHECKPOINT_SECONDS, 2 * self.saving_seconds)
        return now - self.saved > least

    def tokens_per_second(self, step: int) -> float:
        """Return the pace up to ``step``, since this process began."""
        return self._pace(step - self.first_step, time.monotonic() - self.started)

    def pace_since_asked(self, step: int) -> float:
        """Return the tokens per second since this was last asked for."""
        now = time.monotonic()
        pace = self._pace(step - self.asked_step, now - self.asked)
        self.asked_step, self.asked = step, now
        return pace

    def _pace(self, num_steps: int, seconds: float) -> float:
        settings = self.settings
        return num_steps * settings.batch_size * settings.block_size / max(seconds, 1e-9)

    def _progress(self) -> Progress:
        settings = self.settings
        return Progress(
            lambda p: (
                f"step {p.done:.0f} of {settings.num_steps}, "
                f"{p.rate * settings.batch_size * settings.block_size:.0f} tokens/s"
            ),
            total=settings.num_steps,
            done=self.first_step,
        )
