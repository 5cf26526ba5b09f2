"""One training run: transformers' Trainer over packed blocks, resumable, watched (`trainer.py`).

The order of blocks is fixed beforehand (`packing.schedule`), so a resumed run reads exactly what
the interrupted one would have read.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.errors import TrainingInterruptedError
from mdel_assets.experiment.fields import Optimization
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.machine.processes import is_first_process, is_one_machine, num_processes
from mdel_assets.machine.shared_cores import sharing_cores
from mdel_assets.machine.termination import noticing_termination
from mdel_assets.training.compiled_layers import compiled, layers_of
from mdel_assets.training.layers import layer_list_name, text_config
from mdel_assets.training.model_files import quiet
from mdel_assets.training.packing import schedule
from mdel_assets.training.results import TrainingHistory

if TYPE_CHECKING:
    import torch

    from mdel_assets.training.fused_loss import LanguageModelLoss
    from mdel_assets.training.prefix_cache import PrefixCache

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The trained tensors as they came out, in fp32 on the processor, by the model's own names."""

    history: TrainingHistory
    tensors: "dict[str, torch.Tensor]"


def optimize(
    model: Any,
    blocks_NT: NDArray[np.int32],
    settings: Optimization,
    *,
    work_folder: Path,
    first_trained: int = 0,
    validation: Mapping[str, NDArray[np.int32]] | None = None,
    conditions: Conditions = NO_CONDITIONS,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Train the parameters of ``model`` that require a gradient on ``blocks_NT`` (N, block_size).

    ``work_folder``, a separate one for every training identity, keeps checkpoints; a run that finds
    one resumes from it. Nothing before layer ``first_trained`` changes. ``validation`` has blocks
    by split, for the losses of ``settings.eval_steps``. ``callbacks`` are additional callbacks of
    the Trainer. ``model`` must not be used afterwards.

    Raises:
        TrainingError: the loss or the gradient norm is not finite, or a batch cannot be divided by
            the number of processes.
        TrainingInterruptedError: time is over, or SIGTERM or SIGINT arrived; a checkpoint is saved.

    """
    from mdel_assets.training.curves import LogToRun, curves_of
    from mdel_assets.training.trainer import LayerTrainer, Watch
    from mdel_assets.training.trainer_arguments import training_arguments

    quiet()
    num_samples = settings.num_steps * settings.batch_size
    order = schedule(len(blocks_NT), num_samples=num_samples, seed=settings.seed)
    loss = _prepared(model, settings, conditions=conditions)
    if first_trained and len(order) > len(blocks_NT) and settings.cache_prefix:
        loss.prefix = prefix_cache(loss, first_trained, blocks_NT.shape, work_folder, settings)
    with noticing_termination() as termination, sharing_cores(), _compiled(model, settings):
        watch = Watch(settings, termination=termination, max_seconds=conditions.max_seconds)
        live = [LogToRun(conditions.run)] if conditions.run else []
        trainer = LayerTrainer(
            model=loss,
            args=training_arguments(
                settings,
                work_folder,
                sharded_layers=_layer_class(model, conditions),
                evaluates=bool(validation),
            ),
            train_dataset=_Blocks(blocks_NT, order),
            eval_dataset={name: _Blocks(held) for name, held in (validation or {}).items()} or None,
            callbacks=[watch, *live, *callbacks],
        ).watched_by(watch)
        trainer.train_from(last_whole_checkpoint(work_folder))
    if watch.stopped_for:
        raise TrainingInterruptedError(
            f"Training stopped at step {trainer.state.global_step} of {settings.num_steps}: "
            f"{watch.stopped_for}. Run the same command again to continue from there.",
            is_cancelled=termination.is_cancellation,
        )
    curves = curves_of(trainer.state.log_history)
    pace = watch.tokens_per_second(trainer.state.global_step)
    history = _history(settings, curves, num_blocks=len(blocks_NT), tokens_per_second=pace)
    return Trained(history, trainer.trained_tensors())


def _history(
    settings: Optimization,
    curves: dict[str, list[tuple[float, float]]],
    *,
    num_blocks: int,
    tokens_per_second: float,
) -> TrainingHistory:
    return TrainingHistory(
        num_steps=settings.num_steps,
        num_tokens=settings.num_tokens_read,
        num_blocks=num_blocks,
        num_epochs=settings.num_steps * settings.batch_size / num_blocks,
        num_processes=num_processes(),
        final_loss=curves["loss"][-1][1],
        tokens_per_second=tokens_per_second,
        curves=curves,
    )


def _prepared(model: Any, settings: Optimization, *, conditions: Conditions) -> "LanguageModelLoss":
    """Return the model's loss, with the model as the settings want it to compute."""
    from mdel_assets.training.fused_loss import LanguageModelLoss

    loss = LanguageModelLoss(model)
    if settings.dtype == "bfloat16" and not conditions.is_sharded:
        halve_frozen_layers(model)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return loss


def halve_frozen_layers(model: Any) -> None:
    """Keep the frozen weights of linear layers in bfloat16, as autocast would round them anyway.

    Products are the same to the bit, nothing is rounded again at every step, and the weights take
    half the memory. A weight that another module owns too, such as a tied embedding, stays as it
    is. All weights leave the memory-mapped file they were loaded from, because any one of them
    would keep the file in memory.
    """
    import torch

    linear, read_otherwise = [], set()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if not isinstance(module, torch.nn.Linear):
            read_otherwise |= {id(parameter) for parameter in own}
        elif not any(parameter.requires_grad for parameter in own):
            linear += own
    for parameter in linear:
        if id(parameter) not in read_otherwise:
            parameter.data = parameter.data.to(torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dtype == torch.float16:
            parameter.data = parameter.data.clone()


def _compiled(model: Any, settings: Optimization) -> AbstractContextManager[None]:
    """Compile the layers of a model that one process trains for long: see `compiled`."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    # Forward for all, and backward, to inputs and weights, for what is trained.
    per_token = sum(6.0 * size if is_trained else 2.0 * size for size, is_trained in sizes)
    layers = layers_of(model) if num_processes() == 1 else []
    return compiled(layers, num_operations=per_token * settings.num_tokens_read)


def _layer_class(model: Any, conditions: Conditions) -> str | None:
    """Return the name of the layers' class, where parameters are sharded layer by layer."""
    if not conditions.is_sharded:
        return None
    name = layer_list_name(model, num_layers=text_config(model.config).num_hidden_layers)
    return type(model.get_submodule(name)[0]).__name__


def prefix_cache(
    loss: "LanguageModelLoss",
    first_trained: int,
    shape: tuple[int, ...],
    folder: Path,
    settings: Optimization,
) -> "PrefixCache | None":
    """Return what keeps the states of blocks below layer ``first_trained`` in ``folder``.

    ``shape`` is the blocks' (num_blocks, block_size). None where the model allows no such cache, or
    it would not pay.
    """
    import torch

    from mdel_assets.training.prefix_cache import keep_prefix

    # A GPU computes the states in less time than it takes to bring them from the disk.
    if not loss.can_keep_prefix or not is_one_machine() or torch.cuda.is_available():
        return None
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.dtype == "bfloat16"):
        return keep_prefix(
            loss.model, first_trained=first_trained, shape_NT=(shape[0], shape[1]), folder=folder
        )


def last_whole_checkpoint(work_folder: Path) -> Path | None:
    """Return the latest complete checkpoint; remove incomplete ones.

    The Trainer writes ``trainer_state.json`` last: a checkpoint without it is incomplete.
    """
    found: list[tuple[int, Path]] = []
    for path in work_folder.glob("checkpoint-*"):
        try:
            found.append(
                (json.loads((path / "trainer_state.json").read_text())["global_step"], path)
            )
        except (FileNotFoundError, json.JSONDecodeError):
            if is_first_process():
                _log.warning("%s is incomplete and is removed", path)
                shutil.rmtree(path)
    if not found:
        return None
    _log.info("resuming from %s", max(found)[1])
    return max(found)[1]


class _Blocks:
    """Blocks as the Trainer's dataset, in the order of a schedule where there is one."""

    def __init__(
        self, blocks_NT: NDArray[np.int32], order: NDArray[np.int64] | None = None
    ) -> None:
        self.blocks = blocks_NT
        self.order = order

    def __len__(self) -> int:
        return len(self.blocks) if self.order is None else len(self.order)

    def __getitem__(self, position: int) -> "dict[str, torch.Tensor]":
        import torch

        block = position if self.order is None else self.order[position]
        ids = {"input_ids": torch.from_numpy(self.blocks[block].astype(np.int64))}
        return ids if self.order is None else ids | {"block": torch.tensor(block)}


def validation_loss(
    loss: "LanguageModelLoss",
    blocks_NT: NDArray[np.int32],
    *,
    batch_size: int,
    first_number: int = 0,
) -> float:
    """Return a model's mean loss in nats per predicted token over packed ``blocks_NT``.

    ``first_number`` is the first block's among those whose states ``loss.prefix`` keeps.
    """
    import torch

    device = next(loss.parameters()).device
    total = 0.0
    was_training = loss.model.training
    loss.model.eval()
    with torch.inference_mode():
        for start in range(0, len(blocks_NT), batch_size):
            ids = torch.from_numpy(blocks_NT[start : start + batch_size].astype(np.int64)).to(
                device
            )
            numbers = torch.arange(start, start + len(ids)) + first_number
            total += loss(ids, numbers)["loss"].double().item() * len(ids)
    loss.model.train(was_training)
    return total / len(blocks_NT)
