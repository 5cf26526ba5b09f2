"""Tiny seeds of every family that becomes a mixture, experts of them, and mixtures of those."""

import shutil

import torch
from safetensors.torch import load_file, save_file

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.merging.mixtures.build import Mixing, build_mixture
from mdel_assets.merging.sources import MergeInput
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets.training.packing import pack

# Grouped keys in all of them; what each family's mixture is called.
SEEDS = {
    "llama": ("mixtral", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "mistral": ("mixtral", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "qwen3": ("qwen3_moe", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}),
    "olmo2": ("flex_olmo", {"num_attention_heads": 4, "num_key_value_heads": 2}),
}
NUM_LAYERS, WIDTH = 3, 32


def make_seed(make_model, family, **changes):
    """Return a tiny seed of a family."""
    return make_model(family, **(SEEDS[family][1] | {"pad_token_id": 0} | changes))


def expert_of(seed, parent, name, *, number, moved=(".mlp.",), layers=range(NUM_LAYERS)):
    """Return a copy of the seed whose tensors named so, in ``layers``, are others."""
    folder = parent / name
    shutil.copytree(seed, folder)
    tensors = load_file(seed / "model.safetensors")
    draw = torch.Generator().manual_seed(number)
    prefixes = tuple(f"model.layers.{layer}." for layer in layers)
    for key, tensor in tensors.items():
        if key.startswith(prefixes) and any(sign in key for sign in moved):
            noise = torch.randn(tensor.shape, generator=draw)
            tensors[key] = (tensor + 0.2 * noise).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def experts_of(seed, parent, count, **options):
    """Return so many experts of a seed, no two alike."""
    return [
        expert_of(seed, parent, f"expert-{number}", number=number, **options)
        for number in range(count)
    ]


def inputs_of(folders, prefixes=None):
    """Return model folders as inputs called by their folders."""
    return [MergeInput(folder.name, folder, trained_prefixes=prefixes) for folder in folders]


def mix(
    seed,
    experts,
    folder,
    *,
    gates=None,
    experts_per_token=2,
    general_expert=False,
    router="domains",
    **options,
):
    """Build a mixture of model folders; gates are zeros where none are given."""
    folder.mkdir(parents=True)
    if gates is None:
        gates = torch.zeros(NUM_LAYERS, len(experts) + general_expert, WIDTH)
    return build_mixture(
        inputs_of(experts),
        folder,
        seed=MergeInput("seed", seed),
        mixing=Mixing(router, experts_per_token, general_expert),
        gates_LED=gates,
        **options,
    )


def load(folder):
    """Return the model as any user of transformers loads it; every tensor has to find its place."""
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {name: list(found) for name, found in told.items() if found} == {}
    return model.eval()


def logits_of(model):
    """Return a model's logits for two fixed sequences."""
    ids = torch.arange(60).reshape(2, 30) * 5 % 320
    with torch.inference_mode():
        return model(input_ids=ids).logits


def blocks_of(dataset, seed):
    """Return the first 32 blocks of a dataset's training text."""
    return pack(
        SplitDocuments.of(dataset / "train.parquet"),
        load_tokenizer(seed),
        block_size=32,
        num_blocks=32,
        seed=0,
    )
