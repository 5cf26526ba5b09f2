"""One training run: transformers' Trainer over packed blocks, resumable, watched (`trainer.py`).

The order of blocks is fixed beforehand (`packing.schedule`), so a resumed run reads exactly what
the interrupted one would have read.
"""

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.experiment_fields import Optimization
from mdel_assets.training.layers import layer_list_name, text_config
from mdel_assets.training.model_files import quiet
from mdel_assets.training.packing import schedule

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
_NUM_LOG_POINTS = 50
_NUM_CHECKPOINTS = 8


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
    model: Any,
    blocks_NT: NDArray[np.int32],
    settings: Optimization,
    *,
    work_folder: Path,
    first_trained: int = 0,
    max_seconds: float | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainingHistory:
    """Train ``model`` in place on ``blocks_NT`` (num_blocks, block_size) and return what happened.

    ``work_folder`` keeps checkpoints; a run that finds one there goes on from it, so give every
    training identity a folder of its own. ``first_trained`` is the index of the first layer that
    moves, where nothing before it does. ``callbacks`` are further ones of the Trainer's kind.

    Raises:
        TrainingError: the loss or the gradient norm is not a finite number.
        TrainingInterruptedError: ``max_seconds`` are over, or SIGTERM came; a checkpoint was saved.

    """
    from transformers import PrinterCallback

    from mdel_assets.training.fused_loss import LanguageModelLoss
    from mdel_assets.training.trainer import LayerTrainer, Watch, noticing_termination

    quiet()
    order = schedule(
        len(blocks_NT), num_samples=settings.num_steps * settings.batch_size, seed=settings.seed
    )
    loss = LanguageModelLoss(model)
    if first_trained and len(order) > len(blocks_NT) and settings.cache_prefix:
        loss.prefix = _prefix_cache(model, first_trained, blocks_NT.shape, work_folder)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    with noticing_termination() as terminated:
        watch = Watch(settings, terminated=terminated, max_seconds=max_seconds)
        trainer = LayerTrainer(
            model=loss,
            args=_arguments(settings, work_folder),
            train_dataset=_Blocks(blocks_NT, order),
            callbacks=[watch, *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train_from(last_whole_checkpoint(work_folder))
    if watch.stopped_for:
        raise TrainingInterruptedError(
            f"Training stopped at step {trainer.state.global_step} of {settings.num_steps}: "
            f"{watch.stopped_for}. Run the same command again to go on from there."
        )
    curve = [(e["step"], e["loss"]) for e in trainer.state.log_history if "loss" in e]
    return TrainingHistory(
        num_steps=settings.num_steps,
        num_tokens=settings.num_tokens_read,
        num_blocks=len(blocks_NT),
        num_epochs=len(order) / len(blocks_NT),
        final_loss=curve[-1][1],
        tokens_per_second=watch.tokens_per_second(trainer.state.global_step),
        curve=curve,
    )


def _prefix_cache(model: Any, first_trained: int, shape: tuple[int, ...], folder: Path) -> Any:
    from mdel_assets.training.prefix_cache import PrefixCache, has_dropout

    if has_dropout(model):
        _log.info("the model has dropout: states below layer %d are not kept", first_trained)
        return None
    name = layer_list_name(model, num_layers=text_config(model.config).num_hidden_layers)
    return PrefixCache(
        model,
        layers_name=name,
        first_trained=first_trained,
        shape_NT=(shape[0], shape[1]),
        folder=folder,
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
    if not found:
        return None
    _log.info("going on from %s", max(found)[1])
    return max(found)[1]


class _Blocks:
    """Blocks in the order of the schedule, as the Trainer's dataset."""

    def __init__(self, blocks_NT: NDArray[np.int32], order: NDArray[np.int64]) -> None:
        self.blocks = blocks_NT
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict[str, "torch.Tensor"]:
        import torch

        block = self.order[position]
        ids = torch.from_numpy(self.blocks[block].astype(np.int64))
        return {"input_ids": ids, "block": torch.tensor(block)}


def _arguments(settings: Optimization, folder: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    steps = settings.num_steps
    micro_batch = settings.micro_batch_size or settings.batch_size
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
        use_cpu=not torch.cuda.is_available(),
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


def validation_loss(model: Any, blocks_NT: NDArray[np.int32], *, batch_size: int) -> float:
    """Return the mean loss in nats per predicted token over packed ``blocks_NT``."""
    import torch

    from mdel_assets.training.fused_loss import LanguageModelLoss

    device = next(model.parameters()).device
    total = 0.0
    was_training = model.training
    model.eval()
    loss = LanguageModelLoss(model)
    with torch.inference_mode():
        for start in range(0, len(blocks_NT), batch_size):
            ids = torch.from_numpy(blocks_NT[start : start + batch_size].astype(np.int64)).to(
                device
            )
            total += loss(ids)["loss"].double().item() * len(ids)
    model.train(was_training)
    return total / len(blocks_NT)
