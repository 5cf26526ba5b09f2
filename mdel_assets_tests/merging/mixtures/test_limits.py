"""Building a mixture, and leaving one, takes the same memory whatever the size of the models."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets_tests.merging.mixtures.folders import make_seed
from mdel_assets_tests.merging.test_limits import LAUNCH

BUILD = """
import json, resource, sys
from pathlib import Path
import torch
from mdel_assets.merging.mixtures.build import Mixing, build_mixture
from mdel_assets.merging.mixtures.leaving import leave_mixture
from mdel_assets.merging.sources import MergeInput
peaks = []
for name in ("small", "large"):
    parent = Path(sys.argv[1]) / name
    experts = [MergeInput(f"e{n}", parent / f"e{n}") for n in range(3)]
    gates = torch.zeros(3, 3, int(sys.argv[2]) if name == "large" else 32)
    for folder in ("mixture", "left"):
        (parent / folder).mkdir()
    build_mixture(experts, parent / "mixture", seed=MergeInput("seed", parent / "seed"),
                  mixing=Mixing("domains", 2), gates_LED=gates, num_threads=2)
    leave_mixture(parent / "mixture", parent / "left", expert="e1", num_threads=2)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""
WIDTH, INTERMEDIATE = 1024, 8192


@pytest.mark.slow
def test_memory_does_not_grow_with_the_models(make_model, tmp_path):
    """Each of nine matrices has 16 MiB in half precision; three models have 450 MiB."""
    for name, changes in (
        ("small", {}),
        (
            "large",
            {"hidden_size": WIDTH, "intermediate_size": INTERMEDIATE, "tie_word_embeddings": True},
        ),
    ):
        seed = make_seed(make_model, "llama", dtype="bfloat16", **changes)
        for number in range(3):
            folder = tmp_path / name / f"e{number}"
            folder.mkdir(parents=True)
            tensors = load_file(seed / "model.safetensors")
            moved = {k: t + number + 1 if ".mlp." in k else t for k, t in tensors.items()}
            save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "tokenizer.json").write_bytes((seed / "tokenizer.json").read_bytes())
            (folder / "config.json").write_bytes((seed / "config.json").read_bytes())
        seed.rename(tmp_path / name / "seed")
    assert (tmp_path / "large" / "e0" / "model.safetensors").stat().st_size > 150 << 20
    command = [sys.executable, "-W", "ignore", "-c", BUILD, str(tmp_path), str(WIDTH)]
    # A new process inherits the peak of its parent: a small one stands between.
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], check=True, capture_output=True, text=True
    )
    small, large = json.loads(done.stdout)
    assert large - small < 48
    left = load_file(tmp_path / "large" / "left" / "model.safetensors")
    place = "model.layers.2.block_sparse_moe.experts.1.w2.weight"
    own = load_file(tmp_path / "large" / "e2" / "model.safetensors")
    assert torch.equal(left[place], own["model.layers.2.mlp.down_proj.weight"])
