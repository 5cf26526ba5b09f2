"""Tiny model folders for merges, and what a merge of them gives."""

import json

import torch
from safetensors.torch import load_file, save_file

from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models

ONE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
TWO = torch.tensor([[5.0, 6.0], [7.0, 12.0]])


def save_folder(path, tensors, *, vocabulary=None):
    """Save tensors as a model folder with a configuration and a tokenizer."""
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text("{}")
    vocabulary = vocabulary or {"a": 0}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return path


def recipe_of(method, **content):
    """Return a recipe; its models are given to `merge` and named here for the schema alone."""
    return MergeRecipe.model_validate(
        {"merge_method": method, "models": [{"model": "seed"}]} | content
    )


def merge(tmp_path, recipe, *models, base=None, out="out", **options):
    """Merge folders, each with its parameters or without; return the result."""
    entries = [model if isinstance(model, tuple) else (model, {}) for model in models]
    inputs = [
        MergeInput(f"model-{number}", path, parameters)
        for number, (path, parameters) in enumerate(entries)
    ]
    (tmp_path / out).mkdir(exist_ok=True)
    return merge_models(
        recipe,
        inputs,
        tmp_path / out,
        base=MergeInput("base", base) if base else None,
        model_folder=base or entries[0][0],
        **options,
    )


def merged_tensors(tmp_path, out="out"):
    """Return the tensors that a merge wrote, read by safetensors."""
    return {
        name: tensor
        for path in sorted((tmp_path / out).glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
