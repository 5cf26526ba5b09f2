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

from mdel_assets import steps, steps_training
from mdel_assets.merging.methods import METHODS
from mdel_assets_tests.merging.folders import save_folder
from mdel_assets_tests.merging.test_properties import OPTIONS

MERGE = """
import json, resource, sys
from pathlib import Path
import torch
from mdel_assets.merging.recipe import MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
recipe, out, *folders = sys.argv[1:]
recipe = MergeRecipe.model_validate(json.loads(recipe))
inputs = [MergeInput(name, Path(name)) for name in folders]
base = inputs.pop(0) if recipe.method.base == "required" else None
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_models(recipe, inputs, Path(out), base=base, model_folder=Path(folders[0]), num_threads=2)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
LAUNCH = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def peak_mib(tmp_path, method, folders):
    """Return the process's peak before the merge and after it, in MiB."""
    recipe = {"merge_method": method, "models": [{"model": "x"}], "parameters": OPTIONS[method]}
    (tmp_path / method).mkdir(exist_ok=True)
    command = [sys.executable, "-c", MERGE, json.dumps(recipe), str(tmp_path / method)]
    # A new process inherits the peak of its parent: a small one stands between.
    launcher = [sys.executable, "-c", LAUNCH, *command, *map(str, folders)]
    done = subprocess.run(launcher, check=True, capture_output=True, text=True)
    return [int(number) / 1024 for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_memory_stays_below_300_mib_whatever_the_size_and_number_of_models(tmp_path, method):
    """Held whole in fp32, one tensor of all models would take more than is allowed."""
    torch.manual_seed(0)
    folders = []
    count = {1: 2, 2: 3}.get(METHODS[method].max_models, 13)
    num_rows = 1024 if count > 3 else 8192
    for number in range(count):
        large = {name: torch.randn(num_rows, 4096).half() * 0.02 for name in ("big", "head")}
        folders.append(save_folder(tmp_path / f"model-{number}", large))
    used = folders
    if METHODS[method].base != "required" and METHODS[method].max_models:
        used = folders[:-1]
    before, peak = peak_mib(tmp_path, method, used)
    assert peak < 300, (before, peak)


KILLED = """
import sys
from pathlib import Path
from mdel_assets import steps_merging
from mdel_assets.experiment import load_experiment
from mdel_assets.home import MdelHome
lineage = MdelHome(Path(sys.argv[1])).lineage(load_experiment(sys.argv[2]))
import torch
print("ready", flush=True)
steps_merging.make_merged(lineage, "large")
"""


@pytest.mark.slow
def test_a_killed_merge_leaves_nothing_under_the_final_name(lineage, home, tmp_path):
    experiment = lineage.experiment
    for shard in experiment.shards():
        steps.fetch_raw_shard(lineage, shard.key, cache=home.cache)
        steps.route_shard(lineage, shard.key)
    steps.assemble_domain_datasets(lineage, experiment.domain_keys)
    steps_training.make_seed(lineage, cache=home.cache)
    torch.manual_seed(0)
    numbers = {f"layers.{n}.w": torch.randint(0, 100, (2048, 4096)) for n in range(12)}
    tensors = {name: tensor.float() for name, tensor in numbers.items()}
    for number in range(3):
        own = {name: tensor + number for name, tensor in tensors.items()}
        save_folder(tmp_path / f"large-{number}", own)
        tokenizer = lineage.store.seed_model().folder / "tokenizer.json"
        (tmp_path / f"large-{number}" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    folders = [{"model": str(tmp_path / f"large-{number}")} for number in range(3)]
    content = json.loads(experiment.model_dump_json(exclude_none=True))
    content["merges"] = {"large": {"merge_method": "linear", "models": folders}}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    final = lineage.store.merged("large").folder
    command = [sys.executable, "-c", KILLED, str(home.root), str(path)]
    for delay in (0.02, 0.1, 0.3):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not final.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    merged = load_file(final / "model.safetensors")
    assert torch.equal(merged["layers.3.w"], tensors["layers.3.w"] + 1)
