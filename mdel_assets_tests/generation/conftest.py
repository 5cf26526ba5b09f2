"""Folders of experts that share their first layer."""

import copy

import pytest
import torch

from mdel_assets.training.model_files import load_model


def with_changed_top(folder, *, first_layer, seed):
    """Return a model whose layers from one on, and head, are others than the folder's."""
    model = copy.deepcopy(load_model(folder, dtype="float32"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in model.gpt_neox.layers[first_layer:]:
            for tensor in layer.parameters():
                tensor.add_(0.3 * torch.randn(tensor.shape))
    return model


@pytest.fixture(scope="session")
def experts(make_model, tmp_path_factory):
    """Folders of three experts that share one of three layers."""
    seed = make_model("gpt_neox")
    folders = []
    for number in range(3):
        folder = tmp_path_factory.mktemp("experts") / str(number)
        with_changed_top(seed, first_layer=1, seed=number).save_pretrained(folder)
        for path in seed.glob("tokenizer*"):
            (folder / path.name).write_bytes(path.read_bytes())
        folders.append(folder)
    return folders
