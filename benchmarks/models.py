"""Models that benchmarks train and score: GPT-NeoX with random weights, the same each time."""

from typing import Any


def gpt_neox(
    *, width: int, num_layers: int, num_heads: int, vocab_size: int, max_positions: int = 2048
) -> Any:
    """Return a model in fp32 with layers of Pythia's proportions."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt_neox",
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_positions,
    )
    return AutoModelForCausalLM.from_config(config)
