"""The experts' probabilities of a token become one distribution: their weighted mean."""

import numpy as np
import torch

from mdel_assets.errors import GenerationError
from mdel_assets.evaluation.ensemble import Array

# Shapes in names: E experts, B sequences or places of one, V vocabulary.


def mix(log_p_EBV: torch.Tensor, log_weights_BE: Array) -> torch.Tensor:
    """Return the (B, V) logarithms of the weighted means of the experts' probabilities.

    Raises:
        GenerationError: they are no numbers.

    """
    mixed_BV = log_p_EBV[0] if len(log_p_EBV) == 1 else _mean(log_p_EBV, log_weights_BE)
    _refuse_no_numbers(are_there=bool(mixed_BV.isnan().any()))
    return mixed_BV


def mix_given(log_p_EC: Array, log_weights_CE: Array) -> Array:
    """Return the (C,) logarithms of the weighted means of what the experts give C tokens.

    Raises:
        GenerationError: they are no numbers.

    """
    mixed_C: Array = np.logaddexp.reduce(log_p_EC + log_weights_CE.T, axis=0)
    _refuse_no_numbers(are_there=bool(np.isnan(mixed_C).any()))
    return mixed_C


def _refuse_no_numbers(*, are_there: bool) -> None:
    if are_there:
        raise GenerationError(
            "The model gives probabilities that are not numbers: its weights are damaged or its "
            "training diverged. Train it again."
        )


def _mean(log_p_EBV: torch.Tensor, log_weights_BE: Array) -> torch.Tensor:
    experts = np.flatnonzero(np.isfinite(log_weights_BE).any(axis=0)).tolist()
    log_weights_EB1 = torch.from_numpy(log_weights_BE.T[experts, :, None].copy()).float()
    used_EBV = log_p_EBV if len(experts) == len(log_p_EBV) else log_p_EBV[experts]
    return (used_EBV + log_weights_EB1.to(used_EBV.device)).logsumexp(dim=0)
