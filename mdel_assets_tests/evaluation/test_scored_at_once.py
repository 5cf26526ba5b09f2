"""How many models are scored at the same time: as many as fit into memory, by the largest."""

import json
import os
import shutil
import struct

import pytest
import torch

from mdel_assets.evaluation.steps import num_scored_at_once
from mdel_assets.home import MdelHome
from mdel_assets_tests.conftest import PICO, forge, pico_experiment


def write_weights(folder, num_elements):
    """Write a model's weights in bfloat16 as a file that takes no space, whatever its size."""
    folder.mkdir(parents=True)
    size = 2 * num_elements
    entry = {"dtype": "BF16", "shape": [num_elements], "data_offsets": [0, size]}
    header = json.dumps({"weight": entry}).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)


@pytest.fixture
def lineage(branched, corpus, tmp_path):
    """A line up to the seed, with a small model and a huge one to compare with.

    Its seed is said to be so large that it pays to score models at the same time.
    """
    home = tmp_path / "home"
    shutil.copytree(branched[1].root, home, symlinks=True)
    references = {name: {"path": str(tmp_path / name)} for name in ("small", "huge")}
    evaluation = PICO["evaluation"] | {"references": references}
    lineage = MdelHome(home).lineage(pico_experiment(corpus, evaluation=evaluation))
    seed = lineage.artifact("seed_model")
    forge(seed, details=seed.require().details | {"num_parameters": 30_000_000})
    write_weights(lineage.folder("reference_model", "small"), 1000)
    # In fp32, 1 TB.
    write_weights(lineage.folder("reference_model", "huge"), 1 << 38)
    return lineage


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU scores one model at a time")
def test_the_largest_model_to_score_decides(lineage):
    cores = len(os.sched_getaffinity(0))
    # Of an expert that is not here, nothing but the seed's size is known.
    known = ["seed", "reference-small", "expert-github"]
    assert num_scored_at_once(lineage, known) == min(3, cores)
    assert num_scored_at_once(lineage, [*known, "reference-huge"]) == 1
