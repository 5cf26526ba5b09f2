"""Which mixture a seed model's family becomes, and what of a seed does not fit it."""

from collections.abc import Mapping
from typing import Any

from mdel_assets.errors import MergeError
from mdel_assets.model_families.flex_olmo import FLEX_OLMO
from mdel_assets.model_families.mixtral import MIXTRAL
from mdel_assets.model_families.mixture_family import MixtureFamily
from mdel_assets.model_families.qwen3_moe import QWEN3_MOE

FAMILIES = (MIXTRAL, QWEN3_MOE, FLEX_OLMO)
_OF_SEED = {seed_type: family for family in FAMILIES for seed_type in family.seed_types}


def misfit(seed: Mapping[str, Any]) -> str | None:
    """Return why no mixture can be made of models of this configuration; None where one can."""
    model_type = str(seed.get("model_type"))
    family = _OF_SEED.get(model_type)
    if family is None:
        return (
            f"a seed model of the family '{model_type}' has no counterpart among the mixtures of "
            f"transformers; those of {', '.join(_OF_SEED)} have one. Let experts of this one speak "
            f"together as an ensemble (ensemble_report), or merge them"
        )
    if found := list(family.misfits(seed)):
        return f"this seed model ('{model_type}') does not fit a mixture: {'; '.join(found)}"
    return None


def family_of_seed(seed: Mapping[str, Any]) -> MixtureFamily:
    """Return the family of mixtures for seeds of this configuration.

    Raises:
        MergeError: there is none, or the configuration does not fit it.

    """
    if mistake := misfit(seed):
        raise MergeError(f"No mixture can be made: {mistake}.")
    return _OF_SEED[str(seed["model_type"])]


def family_called(model_type: str) -> MixtureFamily:
    """Return the family of mixtures that a mixture's own configuration names."""
    return next(family for family in FAMILIES if family.model_type == model_type)
