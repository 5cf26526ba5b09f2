"""A merge that is killed leaves nothing; memory does not grow with models or their number."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mdel_assets.line.making import make_all, make_one
from mdel_assets.merge_methods import METHODS
from mdel_assets_tests import warm_python
from mdel_assets_tests.merging.folders import save_folder
from mdel_assets_tests.merging.test_properties import OPTIONS

MERGE = """
import json, resource, shutil, sys
from pathlib import Path
import torch
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
out = Path(sys.argv[1])
peaks = {"before": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
for content, folders in json.loads(sys.argv[2]):
    recipe = MergeRecipe.model_validate(content)
    inputs = [MergeInput(name, Path(name)) for name in folders]
    base = inputs.pop(0) if recipe.method.base == "required" else None
    out.mkdir()
    merge_models(recipe, inputs, out, base=base, model_folder=Path(folders[0]), num_threads=2)
    shutil.rmtree(out)
    peaks[recipe.merge_method] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(peaks))
"""
LAUNCH = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def large_models(parent, count):
    """Return folders of ``count`` models that fill more, held whole in fp32, than is allowed."""
    num_rows = 1024 if count > 3 else 8192
    folders = []
    for number in range(count):
        large = {name: torch.randn(num_rows, 4096).half() * 0.02 for name in ("big", "head")}
        folders.append(str(save_folder(parent / f"{count}-{number}", large)))
    return folders


@pytest.mark.slow
def test_memory_stays_below_300_mib_whatever_the_size_and_number_of_models(tmp_path):
    """Held whole in fp32, one tensor of all models would take more than is allowed.

    One process merges by one method after the other: its peak is the highest of any so far.
    """
    torch.manual_seed(0)
    models = {count: large_models(tmp_path, count) for count in (2, 3, 13)}
    merges = []
    for name, method in METHODS.items():
        folders = models[{1: 2, 2: 3}.get(method.max_models, 13)]
        if method.base != "required" and method.max_models:
            folders = folders[:-1]
        recipe = {"merge_method": name, "models": [{"model": "x"}], "parameters": OPTIONS[name]}
        merges.append((recipe, folders))
    command = [sys.executable, "-c", MERGE, str(tmp_path / "out"), json.dumps(merges)]
    # A new process inherits the peak of its parent: a small one stands between.
    launcher = [sys.executable, "-c", LAUNCH, *command]
    done = subprocess.run(launcher, check=True, capture_output=True, text=True)
    peaks_mib = {name: peak / 1024 for name, peak in json.loads(done.stdout).items()}
    assert list(peaks_mib) == ["before", *METHODS]
    assert [name for name, peak in peaks_mib.items() if peak >= 300] == [], peaks_mib


KILLED = """
import sys
from pathlib import Path
from mdel_assets.experiment.loading import load_experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.making import make_one
lineage = MdelHome(Path(sys.argv[1])).lineage(load_experiment(sys.argv[2]))
import torch
print("ready", flush=True)
make_one(lineage, "merged_model", "large")
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_nothing_under_the_final_name(lineage, home, tmp_path):
    experiment = lineage.experiment
    for shard in experiment.shards():
        make_one(lineage, "raw_pile_shard", shard.key)
        make_one(lineage, "shard_documents", shard.key)
    make_all(lineage, "domain_dataset", experiment.domain_keys)
    make_one(lineage, "seed_model")
    torch.manual_seed(0)
    numbers = {f"layers.{n}.w": torch.randint(0, 100, (2048, 4096)) for n in range(12)}
    tensors = {name: tensor.float() for name, tensor in numbers.items()}
    for number in range(3):
        own = {name: tensor + number for name, tensor in tensors.items()}
        save_folder(tmp_path / f"large-{number}", own)
        tokenizer = lineage.folder("seed_model") / "tokenizer.json"
        (tmp_path / f"large-{number}" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    folders = [{"model": str(tmp_path / f"large-{number}")} for number in range(3)]
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    content["merges"] = {"large": {"merge_method": "linear", "models": folders}}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    final = lineage.folder("merged_model", "large")
    words = ["-c", KILLED, home.root, path]
    for delay in (0.02, 0.1, 0.3):
        with warm_python.start(words) as process:
            process.read_until("ready")
            time.sleep(delay)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not final.exists()
    warm_python.run(words, check=True)
    merged = load_file(final / "model.safetensors")
    assert torch.equal(merged["layers.3.w"], tensors["layers.3.w"] + 1)
