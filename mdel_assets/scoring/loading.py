"""Load models as they are scored: as many as fit side by side, or a large one spread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdel_assets.errors import MdelError, ScoringError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.scoring.beside import load_beside
from mdel_assets.scoring.half_precision import halve_linear_layers
from mdel_assets.scoring.shared_trunk import share_equal_tensors
from mdel_assets.scoring.spread_layers import Memory, computing_device, fits, load_spread
from mdel_assets.scoring.token_scores import refuse_short_context

_MODELS_PER_PACK = 8


def load_pack(folders: Sequence[Path], evaluation: Evaluation, memory: Memory) -> list[Any]:
    """Load as many of the first models as fit into half of the memory; share equal tensors.

    Return each one, or the `MdelError` that says why it cannot be loaded. A model that does not
    fit on one device is a pack of its own, and spread.
    """
    found: list[Any] = []
    models: list[Any] = []
    places: list[Path] = []
    held, room = 0, memory.device_bytes // 2
    for folder in folders[:_MODELS_PER_PACK]:
        largest = max((_weight_bytes(model) for model in models), default=0)
        is_whole = fits(folder, evaluation, memory)
        if models and (held + largest > room or not is_whole):
            break
        beside = load_beside(models[0], places[0], folder) if models else None
        if beside is not None:
            model, own_bytes = beside
        else:
            try:
                model = load_to_score(folder, evaluation, memory)
            except MdelError as error:
                found.append(error)
                continue
            own_bytes = share_equal_tensors(model, models[0]) if models else _weight_bytes(model)
        held += own_bytes
        models.append(model)
        places.append(folder)
        found.append(model)
        if not is_whole:
            break
    return found


def load_to_score(model: str | Path, evaluation: Evaluation, memory: Memory) -> Any:
    """Return a model as `load_for_scoring` does, or spread if it does not fit on one device."""
    from mdel_assets.training.model_files import check_tokenizer_fits, load_tokenizer

    is_whole = fits(model, evaluation, memory)
    loaded = None if is_whole else load_spread(Path(model), evaluation, memory)
    if loaded is None:
        return load_for_scoring(model, evaluation)
    check_tokenizer_fits(loaded, load_tokenizer(model))
    refuse_short_context(loaded, evaluation.max_length)
    _refuse_what_does_not_run(loaded, str(model))
    return loaded


def load_for_scoring(model: str | Path, evaluation: Evaluation, *, is_widened: bool = False) -> Any:
    """Return a model as it is scored: on the GPU where there is one, in ``evaluation.dtype``.

    ``is_widened``: weights that are stored in half precision are widened at once, to the same
    results in twice the memory; widening them at use takes most of the time of a single token.
    """
    import torch

    from mdel_assets.training.model_files import check_tokenizer_fits, load_tokenizer
    from mdel_assets.training.stored_precision import load_in_fp32, load_to_compute_in_fp32

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load_in_fp32(model) if is_widened else load_to_compute_in_fp32(model)
    check_tokenizer_fits(loaded, load_tokenizer(model))
    refuse_short_context(loaded, evaluation.max_length)
    if evaluation.dtype == "bfloat16":
        halve_linear_layers(loaded)
    loaded.to(device)
    _refuse_what_does_not_run(loaded, str(model))
    return loaded


def _refuse_what_does_not_run(model: Any, name: str) -> None:
    """Refuse a model whose own code fails on two tokens, so that the others are still scored."""
    import torch

    ids_BT = torch.zeros((1, 2), dtype=torch.int64, device=computing_device(model))
    try:
        with torch.inference_mode():
            model(input_ids=ids_BT, use_cache=False)
    except Exception as error:
        raise ScoringError(
            f"{name} cannot be run: its {type(model).__name__} fails with "
            f"{type(error).__name__}: {error} Check that it runs in transformers itself, and that "
            f"its configuration fits its weights."
        ) from error


def _weight_bytes(model: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
