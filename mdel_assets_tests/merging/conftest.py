"""Small models that several tests of merges share."""

import pytest
import torch
import transformers

from mdel_assets_tests.merging.speakers import save_speakers

NUM_LAYERS = 4


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return three small LLaMA models of one shape, by their names in the recipes."""
    folder = tmp_path_factory.mktemp("models")
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        intermediate_size=24,
        tie_word_embeddings=False,
    )
    for number, name in enumerate("ABC"):
        torch.manual_seed(number)
        transformers.LlamaForCausalLM(config).save_pretrained(folder / name)
    return {name: folder / name for name in "ABC"}


@pytest.fixture(scope="session")
def speakers(tmp_path_factory):
    """Return small models whose tokenizers differ, by their names in the recipes."""
    return save_speakers(tmp_path_factory.mktemp("speakers"))
