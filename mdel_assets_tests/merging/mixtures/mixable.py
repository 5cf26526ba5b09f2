"""The pico experiment with a seed that can be mixed, and experts of feed-forwards alone."""

from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_all
from mdel_assets_tests.conftest import PICO, branch, pico_experiment
from mdel_assets_tests.made_once import made_once

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


def home_with_experts(corpus, factory):
    """Return the folder of a home, this process's own, with the experts that can be mixed."""

    def make(folder):
        experiment = experiment_of(corpus)
        branch(experiment, MdelHome(folder))
        lineage = MdelHome(folder).lineage(experiment)
        make_all(lineage, "expert_model", lineage.present_domains())

    return made_once(factory, "mixable", make)[0]
