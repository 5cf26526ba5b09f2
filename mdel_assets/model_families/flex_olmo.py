"""FlexOlmo: what OLMo 2 models become. Every layer is a mixture.

Norms stand behind the blocks, as in OLMo 2, so that a gate reads the residual stream itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mdel_assets.model_families.mixture_family import MATRICES, MixtureFamily


def _misfits(seed: Mapping[str, Any]) -> Iterator[str]:
    yield from ()


def _settings(
    seed: Mapping[str, Any], num_experts: int, experts_per_token: int, dense_layers: list[int]
) -> dict[str, Any]:
    return {
        "num_experts": num_experts,
        "num_experts_per_tok": experts_per_token,
        # Weights of the chosen experts sum to 1: only then is a mixture of equals one of them.
        "norm_topk_prob": True,
    }


FLEX_OLMO = MixtureFamily(
    model_type="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    count="num_experts",
    seed_types=("olmo2",),
    block="mlp",
    matrices={name: name for name in MATRICES},
    can_stay_dense=False,
    misfits=_misfits,
    settings=_settings,
)
