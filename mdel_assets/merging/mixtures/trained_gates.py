"""Gates that are trained: everything else of a mixture stays, the gates learn on general text.

The loss is that of the predictions plus one that grows as tokens go to few of the experts, as in
Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv 2403.07816). It is a training like any other:
watched, resumable, the last batch the same whether it was interrupted or not.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.mixtures import GateTraining
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.model_families.mixture_families import family_called
from mdel_assets.model_families.mixture_family import read_content
from mdel_assets.training.optimize import optimize
from mdel_assets.training.results import TrainingHistory

_GATE = ".gate.weight"


def train_gates(
    folder: Path,
    training: GateTraining,
    *,
    datasets: Mapping[str, Path],
    expert_training: ExpertTraining,
    work_folder: Path,
    conditions: Conditions = NO_CONDITIONS,
) -> TrainingHistory:
    """Train the gates of the mixture in ``folder``, from what they are, and write them there.

    Batches are as ``expert_training`` has them, of the training text of all ``datasets``, each as
    much. ``work_folder``, one for every identity, keeps checkpoints; a run that finds one goes on.

    Raises:
        TrainingError: a dataset without text; a loss that is not finite.
        TrainingInterruptedError: time is over, SIGTERM or SIGINT came; a checkpoint was saved.

    """
    from mdel_assets.training.baseline import mixed_blocks
    from mdel_assets.training.model_files import load_tokenizer, reading
    from mdel_assets.training.stored_precision import load_to_compute_in_fp32, widen_trained
    from mdel_assets.training.trained_model import write_over

    settings = expert_training.model_copy(
        update={
            "learning_rate": training.learning_rate,
            "max_steps": training.num_steps,
            "num_epochs": None,
            "weight_decay": 0.0,
            "seed": training.seed,
        }
    )
    tokenizer = reading(load_tokenizer(folder), settings.special_tokens)
    blocks_NT = mixed_blocks(datasets, tokenizer, settings, num_experts=1, part=None)
    model = load_to_compute_in_fp32(folder)
    names = only_gates_move(model)
    widen_trained(model)
    balance_load(model, weight=training.load_balancing)
    trained = optimize(model, blocks_NT, settings, work_folder=work_folder, conditions=conditions)
    del model
    gc.collect()
    family = family_called(read_content(folder)["model_type"])
    stored = {name: name.replace(f".mlp{_GATE}", f".{family.block}{_GATE}") for name in names}
    write_over(folder, {stored[name]: tensor for name, tensor in trained.tensors.items()})
    return trained.history


def only_gates_move(model: Any) -> list[str]:
    """Freeze all but the gates; return the gates' names in memory."""
    names = []
    for name, parameter in model.named_parameters():
        is_gate = name.endswith(f".mlp{_GATE}")
        parameter.requires_grad_(is_gate)
        names += [name] * is_gate
    return names


def balance_load(model: Any, *, weight: float) -> None:
    """Let the model's loss in training hold ``weight`` times its load-balancing loss."""
    model.config.output_router_logits = True
    model.config.router_aux_loss_coef = model.router_aux_loss_coef = weight
