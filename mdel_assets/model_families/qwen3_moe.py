"""Qwen3-MoE: what Qwen3 models become. Layers that no expert trained stay dense.

Its attention normalises queries and keys in each head, as Qwen3's does.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mdel_assets.model_families.mixture_family import MATRICES, MixtureFamily
from mdel_assets.model_families.settings import setting


def _misfits(seed: Mapping[str, Any]) -> Iterator[str]:
    kinds = set(seed.get("layer_types") or ()) - {"full_attention"}
    if setting(seed, "use_sliding_window") or kinds:
        yield (
            "some of its layers have a sliding window (use_sliding_window, layer_types), which "
            "Qwen3-MoE has in all layers or in none"
        )


def _settings(
    seed: Mapping[str, Any], num_experts: int, experts_per_token: int, dense_layers: list[int]
) -> dict[str, Any]:
    return {
        "num_experts": num_experts,
        "num_experts_per_tok": experts_per_token,
        "moe_intermediate_size": seed["intermediate_size"],
        "mlp_only_layers": dense_layers,
        "decoder_sparse_step": 1,
        # Weights of the chosen experts sum to 1: only then is a mixture of equals one of them.
        "norm_topk_prob": True,
    }


QWEN3_MOE = MixtureFamily(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    count="num_experts",
    seed_types=("qwen3",),
    block="mlp",
    matrices={name: name for name in MATRICES},
    can_stay_dense=True,
    misfits=_misfits,
    settings=_settings,
    left_out=("layer_types", "max_window_layers", "use_sliding_window", "sliding_window"),
)
