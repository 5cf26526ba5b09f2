"""The pico experiment with a seed that can be mixed, and experts of feed-forwards alone."""

from mdel_assets_tests.conftest import PICO, pico_experiment

SEED = PICO["seed_model"]["pretrain"] | {
    "model": {
        "model_type": "qwen3",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
}
CHANGES = {
    "seed_model": {"pretrain": SEED},
    "training": PICO["training"] | {"trained_layers": ["1-2.mlp"]},
    "baselines": {"dense": False, "dense_one": False},
    "merges": {},
}


def experiment_of(corpus, **mixtures):
    """Return the experiment with these mixtures."""
    return pico_experiment(corpus, **CHANGES, mixtures=mixtures)
