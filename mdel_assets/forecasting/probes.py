"""Train the probes, and measure them: losses on every domain, task vectors, the line to their mean.

Probes lie in the work folder while they are measured, and are removed with it. One that was trained
is not trained again after an interruption.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError
from mdel_assets.experiment.fields import ExpertTraining
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.experiment.model_keys import SEED
from mdel_assets.forecasting.features import Probes
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.merging.sources import MergeInput
from mdel_assets.store.durable_files import write_text_atomically

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Blocks = Mapping[str, NDArray[np.int32]]

_SPLIT = "validation_domain"
_DONE = "probe.json"


def measure_probes(
    training: ExpertTraining,
    *,
    probe: ExpertTraining,
    seed_folder: Path,
    datasets: Mapping[str, Path],
    work_folder: Path,
    conditions: Conditions = NO_CONDITIONS,
) -> Probes:
    """Train a probe on each of ``datasets`` by domain, from ``seed_folder``, and measure them.

    ``training`` are the settings of experts, ``probe`` those of probes (`Forecast.probe_training`).

    Raises:
        TrainingError: a domain has too little text, for an expert, too; or a probe did not move.
        TrainingInterruptedError: SIGTERM or SIGINT arrived, or the allowed seconds are over.

    """
    found = {
        domain: _trained(probe, seed_folder, folder, work_folder / domain, conditions=conditions)
        for domain, folder in datasets.items()
    }
    probes = [
        MergeInput(
            domain,
            work_folder / domain / "model",
            trained_prefixes=tuple(result["trained_prefixes"]),
        )
        for domain, result in found.items()
    ]
    blocks = _held_out(training, datasets, seed_folder)
    lengths, cosines = _task_vectors(probes, seed_folder, work_folder)
    num_tokens = [result["history"]["num_tokens"] for result in found.values()]
    steps = [result["history"]["num_steps"] for result in found.values()]
    return Probes(
        num_steps=max(steps),
        num_tokens=sum(num_tokens),
        num_expert_tokens=_expert_tokens(training, found),
        num_weights=_num_weights(seed_folder),
        seed_losses=_losses(seed_folder, blocks, training),
        probe_losses={p.name: _losses(p.folder, blocks, training) for p in probes},
        half_losses=_losses_on_line(probes, seed_folder, work_folder, blocks, training, seeds=1),
        whole_losses=_losses_on_line(probes, seed_folder, work_folder, blocks, training, seeds=0),
        lengths=lengths,
        cosines=cosines,
    )


def _trained(
    settings: ExpertTraining,
    seed_folder: Path,
    dataset_folder: Path,
    work_folder: Path,
    *,
    conditions: Conditions,
) -> dict[str, Any]:
    """Train one probe into ``work_folder / "model"`` unless it is there; return what it says."""
    from mdel_assets.training.expert import train_expert

    done = work_folder / _DONE
    if not done.is_file():
        model = work_folder / "model"
        model.mkdir(parents=True, exist_ok=True)
        result = train_expert(
            settings,
            seed_folder=seed_folder,
            dataset_folder=dataset_folder,
            folder=model,
            work_folder=work_folder,
            conditions=conditions,
        )
        assert result
        write_text_atomically(done, json.dumps(dataclasses.asdict(result)))
    content: dict[str, Any] = json.loads(done.read_text("utf-8"))
    return content


def _expert_tokens(training: ExpertTraining, found: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many tokens all experts will read."""
    step = training.batch_size * training.block_size
    total = 0
    for result in found.values():
        settings = training.of_length(result["history"]["num_blocks"])
        total += settings.num_steps * step
    return total


def _num_weights(folder: Path) -> int:
    from mdel_assets.store.tensor_files import TensorFolder

    return sum(tensor.num_elements for tensor in TensorFolder(folder).stored.values())


def _held_out(
    training: ExpertTraining, datasets: Mapping[str, Path], seed_folder: Path
) -> "Blocks":
    """Return packed blocks of each domain that holds out enough text."""
    from mdel_assets.training.expert import validation_blocks
    from mdel_assets.training.model_files import load_tokenizer, reading

    tokenizer = reading(load_tokenizer(seed_folder), training.special_tokens)
    found: dict[str, NDArray[np.int32]] = {}
    for domain, folder in datasets.items():
        documents = {_SPLIT: SplitDocuments.of(folder / f"{_SPLIT}.parquet")}
        packed = validation_blocks(documents, tokenizer, training)
        if _SPLIT in packed:
            found[domain] = packed[_SPLIT]
    if len(found) < 2:
        raise TrainingError(
            f"A forecast compares domains by their held-out text, and {len(found)} of "
            f"{len(datasets)} domains hold out a block of {training.block_size} tokens. Hold out "
            f"more (source.holdout_fraction), or leave 'forecast' out of the experiment."
        )
    return found


def _losses(folder: Path, blocks: "Blocks", training: ExpertTraining) -> dict[str, float]:
    """Return a model's nats per token by domain, in the precision of the training."""
    import torch

    from mdel_assets.training.fused_loss import LanguageModelLoss
    from mdel_assets.training.optimize import validation_loss
    from mdel_assets.training.stored_precision import load_in_fp32

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loss = LanguageModelLoss(load_in_fp32(folder).to(device))
    batch = training.micro_batch_size or training.batch_size
    with torch.autocast(device, torch.bfloat16, enabled=training.dtype == "bfloat16"):
        return {
            domain: validation_loss(loss, own, batch_size=batch) for domain, own in blocks.items()
        }


def _losses_on_line(
    probes: Sequence[MergeInput],
    seed_folder: Path,
    work_folder: Path,
    blocks: "Blocks",
    training: ExpertTraining,
    *,
    seeds: int,
) -> dict[str, float]:
    """Return the losses of the mean of the probes and as many copies of the seed times ``seeds``.

    That is the probes' mean for 0, and halfway to it for 1.
    """
    from mdel_assets.merging.streaming import merge_models

    entries = [MergeInput(p.name, p.folder, {"weight": 1.0}, p.trained_prefixes) for p in probes]
    if seeds:
        weight = {"weight": float(seeds * len(probes))}
        entries.append(MergeInput(SEED, seed_folder, weight, ()))
    recipe = MergeRecipe.model_validate(
        {
            "merge_method": "linear",
            "models": [{"model": e.name, "parameters": dict(e.parameters)} for e in entries],
        }
    )
    folder = work_folder / f"line-{seeds}"
    folder.mkdir(exist_ok=True)
    merge_models(recipe, entries, folder, model_folder=seed_folder)
    return _losses(folder, blocks, training)


def _task_vectors(
    probes: Sequence[MergeInput], seed_folder: Path, work_folder: Path
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the relative length of each probe's task vector, and the cosine of each two."""
    from mdel_assets.merging.layer_differences import measure_differences

    folders = dict(_folders(probes, work_folder / "differences"))
    found = measure_differences(probes, folders, seed=MergeInput(SEED, seed_folder))
    lengths = {name: own.relative_l2 for name, own in found.items()}
    if still := [name for name, length in lengths.items() if not length]:
        raise TrainingError(
            f"The probe of {', '.join(still)} has the seed's weights: in so few steps nothing "
            f"moved. Lower training.warmup_ratio, train longer, or set a larger "
            f"forecast.probe_share."
        )
    return lengths, {name: dict(own.mean_cosines) for name, own in found.items()}


def _folders(probes: Sequence[MergeInput], parent: Path) -> Iterator[tuple[str, Path]]:
    for probe in probes:
        folder = parent / probe.name
        folder.mkdir(parents=True, exist_ok=True)
        yield probe.name, folder
