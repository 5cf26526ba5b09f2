"""Settings that make tiny models of many families of transformers, for `make_model`.

Dropout is off where a family's defaults have it on: tests that are about it turn it on.
"""

from typing import Any

_SMALL = {"n_layer": 3, "n_head": 2, "n_embd": 32, "n_positions": 64}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "bloom": {},
    "codegen": {**_SMALL, "num_attention_heads": 4, "n_ctx": 64, "rotary_dim": 8},
    "falcon": {},
    "gpt_neo": {"num_layers": 3, "attention_types": [[["global", "local", "global"], 1]]},
    "gptj": {**_SMALL, "rotary_dim": 8},
    "jamba": {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "num_key_value_heads": 2,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "llama": {},
    "mamba": {"state_size": 8},
    "mixtral": {**_EXPERTS, "num_key_value_heads": 2},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 2, "max_seq_len": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0, "pad_token_id": 0},
    "phimoe": {**_EXPERTS, "num_key_value_heads": 2, "router_jitter_noise": 0.0},
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
}
