"""One training run: transformers' Trainer over packed blocks, resumable, watched for divergence.

The order of blocks is fixed beforehand (`packing.schedule`), so a resumed run reads exactly what
the interrupted one would have read.
"""

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import TrainingError
from mdel_assets.experiment_fields import Optimization
from mdel_assets.training.model_files import quiet
from mdel_assets.training.packing import schedule

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_NUM_LOG_POINTS = 50
_NUM_CHECKPOINTS = 8
_PROGRESS_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class TrainingHistory:
    """What a run did. ``curve`` holds (step, training loss in nats per token)."""

    num_steps: int
    num_tokens: int
    num_blocks: int
    num_epochs: float
    final_loss: float
    tokens_per_second: float
    curve: list[tuple[float, float]]


def optimize(
    model: Any, blocks_NT: NDArray[np.int32], settings: Optimization, *, work_folder: Path
) -> TrainingHistory:
    """Train ``model`` in place on ``blocks_NT`` (num_blocks, block_size) and return what happened.

    ``work_folder`` keeps checkpoints; a run that finds one there goes on from it, so give every
    training identity a folder of its own.

    Raises:
        TrainingError: the loss or the gradient norm is not a finite number.

    """
    from transformers import PrinterCallback, Trainer

    quiet()
    order = schedule(
        len(blocks_NT), num_samples=settings.num_steps * settings.batch_size, seed=settings.seed
    )
    micro_batch = settings.micro_batch_size or settings.batch_size
    callback = _make_callback(settings)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, work_folder, micro_batch),
        train_dataset=_Blocks(blocks_NT, order),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_whole_checkpoint(work_folder)
    if checkpoint:
        _log.info("resuming from %s", checkpoint)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    elapsed = max(time.monotonic() - started, 1e-9)
    curve = [(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e]
    steps_here = settings.num_steps - (callback.first_step or 0)
    return TrainingHistory(
        num_steps=settings.num_steps,
        num_tokens=settings.num_tokens_read,
        num_blocks=len(blocks_NT),
        num_epochs=len(order) / len(blocks_NT),
        final_loss=curve[-1][1],
        tokens_per_second=steps_here * settings.batch_size * settings.block_size / elapsed,
        curve=curve,
    )


def last_whole_checkpoint(work_folder: Path) -> Path | None:
    """Return the latest checkpoint that was written to its end; remove the ones that were not.

    The Trainer writes ``trainer_state.json`` last: a checkpoint without it was cut by a kill.
    """
    found: list[tuple[int, Path]] = []
    for path in work_folder.glob("checkpoint-*"):
        try:
            found.append(
                (json.loads((path / "trainer_state.json").read_text())["global_step"], path)
            )
        except (FileNotFoundError, json.JSONDecodeError):
            _log.warning("%s is incomplete and is removed", path)
            shutil.rmtree(path)
    return max(found)[1] if found else None


class _Blocks:
    """Blocks in the order of the schedule, as the Trainer's dataset."""

    def __init__(self, blocks_NT: NDArray[np.int32], order: NDArray[np.int64]) -> None:
        self.blocks = blocks_NT
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, "torch.Tensor"]:
        import torch

        ids = torch.from_numpy(self.blocks[self.order[position]].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def _arguments(settings: Optimization, folder: Path, micro_batch: int) -> Any:
    from transformers import TrainingArguments

    steps = settings.num_steps
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=settings.batch_size // micro_batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16",
        activation_checkpointing=settings.gradient_checkpointing,
        optim="adamw_torch",
        seed=settings.seed,
        train_sampling_strategy="sequential",
        logging_steps=max(1, steps // _NUM_LOG_POINTS),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps / _NUM_CHECKPOINTS)),
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )


def _make_callback(settings: Optimization) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Stops at a non-finite loss and logs a line of progress every so often."""

        first_step: int | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.first_step = state.global_step
            self.started = self.reported = time.monotonic()

        def on_log(
            self,
            args: Any,
            state: Any,
            control: Any,
            logs: Mapping[str, Any] | None = None,
            **_: Any,
        ) -> None:
            for name in ("loss", "grad_norm"):
                value = (logs or {}).get(name)
                if value is not None and not math.isfinite(value):
                    raise TrainingError(
                        f"The {name} is {value} at step {state.global_step}: training diverged. "
                        f"Lower training.learning_rate ({settings.learning_rate}) or raise "
                        f"training.warmup_ratio; the last checkpoint is kept."
                    )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.monotonic()
            if now - self.reported < _PROGRESS_SECONDS:
                return
            self.reported = now
            done = state.global_step - (self.first_step or 0)
            rate = done / (now - self.started)
            tokens = rate * settings.batch_size * settings.block_size
            left = (settings.num_steps - state.global_step) / rate
            _log.info(
                "step %d of %d, %.0f tokens/s, %.0f s left",
                state.global_step,
                settings.num_steps,
                tokens,
                left,
            )

    return Watch()


def validation_loss(model: Any, blocks_NT: NDArray[np.int32], *, batch_size: int) -> float:
    """Return the mean loss in nats per predicted token over packed ``blocks_NT``."""
    import torch

    device = next(model.parameters()).device
    total = 0.0
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(blocks_NT), batch_size):
            ids = torch.from_numpy(blocks_NT[start : start + batch_size].astype(np.int64)).to(
                device
            )
            total += model(input_ids=ids, labels=ids).loss.double().item() * len(ids)
    model.train(was_training)
    return total / len(blocks_NT)
