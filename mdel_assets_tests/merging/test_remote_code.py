"""Python files that come with a model are never executed, whatever is done with the model."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mdel_assets.errors import TrainingError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.experiment.fields import ModelSource
from mdel_assets.merging.candidates import Candidates
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets.training.seed import adopt_model
from mdel_assets_tests.merging.folders import recipe_of

CODE = """
from pathlib import Path
Path({marker!r}).write_text("executed")
from transformers import GPTNeoXConfig as OwnConfig, GPTNeoXForCausalLM as OwnModel
from transformers import PreTrainedTokenizerFast as OwnTokenizer
"""
AUTO_MAP = {
    "AutoConfig": "modeling_own.OwnConfig",
    "AutoModelForCausalLM": "modeling_own.OwnModel",
    "AutoTokenizer": ["modeling_own.OwnTokenizer", "modeling_own.OwnTokenizer"],
}


@pytest.fixture
def with_code(make_model, tmp_path):
    """Two models whose configurations ask for code of their own, and the file that it writes."""
    marker = tmp_path / "executed"
    folders = []
    for seed in (1, 2):
        folder = make_model(seed=seed)
        (folder / "modeling_own.py").write_text(CODE.format(marker=str(marker)))
        for name in ("config.json", "tokenizer_config.json"):
            content = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(content | {"auto_map": AUTO_MAP}))
        folders.append(folder)
    return folders, marker


TRUST = """
import sys
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


@pytest.mark.slow
def test_the_code_would_run_if_it_were_trusted(with_code, tmp_path):
    """What the other tests look for is there to be found; trust changes the process for good."""
    (folder, _), marker = with_code
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run([sys.executable, "-c", TRUST, folder], check=True, env=environment)
    assert marker.exists()


def test_models_with_code_are_loaded_and_merged_without_it(with_code, tmp_path):
    (first, second), marker = with_code
    assert type(load_model(first)).__module__.startswith("transformers.")
    assert load_tokenizer(first)("proof")["input_ids"]
    seed = tmp_path / "seed"
    adopt_model(ModelSource(path=str(first)), seed, cache=tmp_path / "cache")
    out = tmp_path / "out"
    out.mkdir()
    inputs = [MergeInput(path.name, path) for path in (first, second)]
    merge_models(recipe_of("linear"), inputs, out, model_folder=first)
    task = recipe_of("task_arithmetic")
    base = MergeInput("base", first)
    evaluation = Evaluation(max_length=32)
    with Candidates(task, inputs[1:], base=base, evaluation=evaluation, folder=tmp_path) as opened:
        opened.score(np.array([[0.5]]), [[1, 2, 3]], prefix=0)
    assert not marker.exists()
    assert not [*seed.glob("*.py"), *out.glob("*.py")]


def test_a_model_that_is_nothing_without_its_code_is_refused(with_code):
    (folder, _), marker = with_code
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "own"}))
    with pytest.raises(TrainingError, match="could not be loaded"):
        load_model(folder)
    assert not marker.exists()
