"""The Trainer's arguments, from the settings of a training and the processes that share it."""

import math
from pathlib import Path
from typing import Any, cast

from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import Optimization
from mdel_assets.machine.processes import num_processes

_NUM_LOG_POINTS = 50


def training_arguments(
    settings: Optimization,
    folder: Path,
    *,
    sharded_layers: str | None = None,
    evaluates: bool = False,
) -> Any:
    """Return the Trainer's arguments; ``sharded_layers`` names the class of layers that are split.

    Raises:
        TrainingError: a batch does not divide by the processes.

    """
    import torch
    from transformers import TrainingArguments

    steps = settings.num_steps
    micro_batch, accumulated = _shares(settings)
    has_gpu = torch.cuda.is_available()
    is_sharded = sharded_layers is not None
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=accumulated,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16",
        use_cpu=not has_gpu,
        ddp_backend=None if has_gpu or num_processes() == 1 else "gloo",
        ddp_find_unused_parameters=False if num_processes() > 1 else None,
        fsdp=cast("Any", is_sharded or None),
        fsdp_config={"transformer_layer_cls_to_wrap": [sharded_layers]} if is_sharded else None,
        optim="adamw_torch_fused",
        seed=settings.seed,
        train_sampling_strategy="sequential",
        # A training that is shorter than the interval has its end for a point.
        logging_steps=min(steps, settings.logging_steps or max(1, steps // _NUM_LOG_POINTS)),
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates and settings.eval_steps else "no",
        eval_steps=settings.eval_steps,
        # Without a number of steps, `Watch` requests checkpoints by the clock.
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or steps,
        save_total_limit=settings.save_total_limit,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=has_gpu,
        remove_unused_columns=False,
    )


def _shares(settings: Optimization) -> tuple[int, int]:
    """Return how many blocks a process takes at once, and how often for a whole batch."""
    count = num_processes()
    if settings.batch_size % count:
        raise TrainingError(
            f"training.batch_size {settings.batch_size} is not a multiple of the {count} processes "
            f"that train together. Use another number of processes, or another batch size."
        )
    own_batch = settings.batch_size // count
    micro_batch = min(settings.micro_batch_size or own_batch, own_batch)
    if own_batch % micro_batch:
        raise TrainingError(
            f"Each of {count} processes has {own_batch} of a batch's blocks, which is not a "
            f"multiple of training.micro_batch_size {micro_batch}. Lower it."
        )
    return micro_batch, own_batch // micro_batch
