"""Mixtral: what LLaMA and Mistral models become. Every layer is a mixture.

Both have Mixtral's attention, norms and gated feed-forward, LLaMA without its sliding window.
Files have Mixtral's first names, which transformers, vLLM and others read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mdel_assets.model_families.mixture_family import MixtureFamily
from mdel_assets.model_families.settings import setting


def _misfits(seed: Mapping[str, Any]) -> Iterator[str]:
    for name in ("attention_bias", "mlp_bias"):
        if setting(seed, name):
            yield f"{name} is true, and Mixtral has no biases"
    kinds = set(seed.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        yield f"its layers differ in their attention ({', '.join(sorted(kinds))}), Mixtral's do not"


def _settings(
    seed: Mapping[str, Any], num_experts: int, experts_per_token: int, dense_layers: list[int]
) -> dict[str, Any]:
    return {
        "num_local_experts": num_experts,
        "num_experts_per_tok": experts_per_token,
        "sliding_window": seed.get("sliding_window"),
    }


MIXTRAL = MixtureFamily(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    count="num_local_experts",
    seed_types=("llama", "mistral"),
    block="block_sparse_moe",
    matrices={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    can_stay_dense=False,
    misfits=_misfits,
    settings=_settings,
    left_out=("attention_bias", "mlp_bias", "pretraining_tp", "layer_types"),
)
