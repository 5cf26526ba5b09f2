"""An expert: the seed model with its chosen layers trained on one domain's dataset.

Everything outside the chosen layers stays equal to the seed to the bit, which `differing_tensors`
checks on the saved files.
"""

import dataclasses
import gc
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import ExpertTraining, Optimization
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.training.adapters import Adapted, require_peft
from mdel_assets.training.layers import (
    TrainedParts,
    freeze_all_but,
    resolve_layers,
    resolve_parts,
    text_config,
)
from mdel_assets.training.model_files import (
    check_tokenizer_fits,
    load_config,
    load_tokenizer,
    reading,
    refuse_long_blocks,
)
from mdel_assets.training.optimize import optimize, prefix_cache, validation_loss
from mdel_assets.training.packing import pack
from mdel_assets.training.results import ExpertResult
from mdel_assets.training.trained_model import (
    save_trained,
    stored_names,
    stored_prefixes,
    take_stored_values,
)

if TYPE_CHECKING:
    from mdel_assets.training.prefix_cache import PrefixCache

_log = logging.getLogger(__name__)
VALIDATION_SPLITS = ("validation_domain", "validation_pile")
# The work folder's part for the states of held-out blocks.
_HELD_OUT = "held-out"


def train_expert(
    training: ExpertTraining,
    *,
    seed_folder: Path,
    dataset_folder: Path,
    folder: Path | None,
    work_folder: Path,
    only_domain: str | None = None,
    conditions: Conditions = NO_CONDITIONS,
) -> ExpertResult | None:
    """Train the expert of ``dataset_folder`` from ``seed_folder`` and save it into ``folder``.

    The tensors are saved in the dtype of the seed's files; training itself uses fp32 weights. With
    ``only_domain``, only that domain's training documents are read. If ``folder`` is None, another
    process saves the expert, and nothing is returned.

    Raises:
        TrainingError: a layer does not exist, there are fewer tokens than one block, or the
            training diverged.
        TrainingInterruptedError: SIGTERM or SIGINT arrived, or the allowed seconds are over.

    """
    # A layer that does not exist is refused before the texts are read.
    if training.adapter:
        require_peft()
    config = load_config(seed_folder)
    resolve_layers(training.trained_layers, num_layers=text_config(config).num_hidden_layers)
    refuse_long_blocks(config, training.block_size, setting="training.block_size")
    tokenizer = reading(load_tokenizer(seed_folder), training.special_tokens)
    held_out = {
        name: SplitDocuments.of(dataset_folder / f"{name}.parquet") for name in VALIDATION_SPLITS
    }
    documents = SplitDocuments.of(dataset_folder / "train.parquet", domain=only_domain)
    blocks, settings = _blocks(documents, tokenizer, training, folder=work_folder)
    return train_layers(
        settings,
        blocks,
        validation_blocks(held_out, tokenizer, training),
        tokenizer=tokenizer,
        seed_folder=seed_folder,
        folder=folder,
        work_folder=work_folder,
        conditions=conditions,
    )


def train_layers(
    training: ExpertTraining,
    blocks_NT: NDArray[np.int32],
    validation: Mapping[str, NDArray[np.int32]],
    *,
    tokenizer: Any,
    seed_folder: Path,
    folder: Path | None,
    work_folder: Path,
    conditions: Conditions = NO_CONDITIONS,
) -> ExpertResult | None:
    """Train the seed's chosen layers on packed blocks and save the model into ``folder``.

    ``blocks_NT`` and each of ``validation``, by split, are (num_blocks, block_size) token ids of
    ``tokenizer``. Losses before and after are those of the models as they are stored, computed in
    the precision of the training.

    Raises:
        TrainingError: a layer that does not exist, a tokenizer that does not fit, or divergence.

    """
    from mdel_assets.training import stored_precision as precision

    model = _seed_to_train(seed_folder, is_sharded=conditions.is_sharded)
    check_tokenizer_fits(model, tokenizer)
    moving = _let_train(model, training, seed_folder)
    first = 0 if conditions.is_sharded or folder is None else moving.parts.first
    states = _kept_states(model, validation, training, first_trained=first, folder=work_folder)
    before = _losses(model, validation, training, states) if folder else {}
    trained = optimize(
        model,
        blocks_NT,
        training,
        work_folder=work_folder,
        first_trained=moving.parts.first,
        validation=validation,
        conditions=conditions,
    )
    if folder is None:
        return None
    tensors = trained.tensors
    if moving.adapted:
        own = None if conditions.is_sharded else model
        tensors = moving.adapted.finish(tensors, own, folder, seed_folder=seed_folder)
    save_trained(tensors, folder, seed_folder=seed_folder, store=training.store)
    if conditions.is_sharded or not take_stored_values(model, tensors, folder):
        model = states = None
    gc.collect()
    model = model or _on_device(precision.load_in_fp32(folder))
    return ExpertResult(
        trained_layers=moving.parts.layers,
        trained_prefixes=moving.prefixes,
        num_trained_parameters=moving.num_trained,
        num_frozen_parameters=moving.num_frozen,
        history=trained.history,
        losses_before=before,
        losses_after=_losses(model, validation, training, states),
        changed_though_frozen=differing_tensors(folder, seed_folder, except_under=moving.prefixes),
    )


@dataclasses.dataclass(frozen=True)
class _Moving:
    """What of a model is trained: ``parts`` of it, or adapters in them.

    ``prefixes`` are those of the stored names of tensors that may change; ``num_frozen`` counts the
    parameters that may not.
    """

    parts: TrainedParts
    adapted: Adapted | None
    prefixes: list[str]
    num_trained: int
    num_frozen: int


def _let_train(model: Any, training: ExpertTraining, seed_folder: Path) -> _Moving:
    """Let what ``training`` trains of ``model`` have gradients, in fp32, and nothing else."""
    from mdel_assets.training.stored_precision import widen_trained

    parts = resolve_parts(model, training.trained_layers)
    adapter = training.adapter
    adapted = Adapted.of(model, parts.prefixes, adapter) if adapter else None
    changed = adapted.weights if adapted else parts.prefixes
    num_trained, num_frozen = freeze_all_but(model, changed)
    prefixes = stored_prefixes(model, changed, seed_folder)
    _refuse_what_no_delta_holds(model, training, seed_folder)
    if adapted:
        num_trained = adapted.put_into(model, seed=training.seed)
    widen_trained(model)
    return _Moving(parts, adapted, prefixes, num_trained, num_frozen)


def _seed_to_train(seed_folder: Path, *, is_sharded: bool) -> Any:
    from mdel_assets.training.stored_precision import load_in_fp32, load_to_compute_in_fp32

    load = load_in_fp32 if is_sharded else load_to_compute_in_fp32
    return _on_device(load(seed_folder))


def _refuse_what_no_delta_holds(model: Any, training: ExpertTraining, seed_folder: Path) -> None:
    if training.store == "delta":
        moving = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
        stored_names(moving, seed_folder)


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def differing_tensors(
    folder: Path, seed_folder: Path, *, except_under: list[str] | None = None
) -> list[str]:
    """Return names of tensors whose bytes, dtype or shape differ from the seed's.

    Tensors under a prefix in ``except_under`` may differ and are left out. Tensors that only one of
    the two folders has are always named.
    """
    allowed = tuple(except_under or ("\0",))
    with TensorFolder(folder) as ours, TensorFolder(seed_folder) as seeds:
        names = {*ours.shapes, *seeds.shapes}
        return sorted(
            name
            for name in names
            if not (name in ours.shapes and name in seeds.shapes and name.startswith(allowed))
            and not ours.has_same(name, seeds)
        )


def _blocks(
    documents: SplitDocuments, tokenizer: Any, training: ExpertTraining, *, folder: Path
) -> tuple[NDArray[np.int32], ExpertTraining]:
    """Return the blocks to train on, and the settings with their length in steps."""
    whole = training.num_epochs is not None
    blocks = pack(
        documents,
        tokenizer,
        block_size=training.block_size,
        num_blocks=None if whole else training.num_steps * training.batch_size,
        max_documents=training.max_train_documents,
        seed=training.seed,
        folder=folder,
    )
    return blocks, training.of_length(len(blocks))


def validation_blocks(
    held_out: Mapping[str, SplitDocuments], tokenizer: Any, training: Optimization
) -> dict[str, NDArray[np.int32]]:
    """Return packed blocks of each split whose documents fill at least one block."""
    found = {}
    for split, documents in held_out.items():
        if not len(documents):
            continue
        try:
            found[split] = pack(
                documents,
                tokenizer,
                block_size=training.block_size,
                num_blocks=training.num_validation_blocks,
                seed=training.seed,
            )
        except TrainingError:
            _log.warning("%s has less than one block of text, so it gets no loss", split)
    return found


def _kept_states(
    model: Any,
    validation: Mapping[str, NDArray[np.int32]],
    training: ExpertTraining,
    *,
    first_trained: int,
    folder: Path,
) -> "PrefixCache | None":
    """Return where the losses before leave the states of layers that no training changes.

    The losses after need these layers no more. None where there are no such layers.
    """
    from mdel_assets.training.fused_loss import LanguageModelLoss

    if not (first_trained and validation and training.cache_prefix):
        return None
    shape = (sum(map(len, validation.values())), training.block_size)
    loss = LanguageModelLoss(model)
    return prefix_cache(loss, first_trained, shape, folder / _HELD_OUT, training)


def _losses(
    model: Any,
    validation: Mapping[str, NDArray[np.int32]],
    training: ExpertTraining,
    states: "PrefixCache | None",
) -> dict[str, float]:
    import torch

    from mdel_assets.training.fused_loss import LanguageModelLoss

    if not validation:
        return {}
    started = time.monotonic()
    batch = training.micro_batch_size or training.batch_size
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=training.dtype == "bfloat16"):
        loss = LanguageModelLoss(model)
        loss.prefix = states
        found: dict[str, float] = {}
        num_blocks = 0
        for split, blocks in validation.items():
            found[split] = validation_loss(loss, blocks, batch_size=batch, first_number=num_blocks)
            num_blocks += len(blocks)
    _log.info("losses of %d held-out blocks in %.1f s", num_blocks, time.monotonic() - started)
    return found
