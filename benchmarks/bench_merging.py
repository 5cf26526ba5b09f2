"""Merging, against reading the inputs and writing the output with ``cat``, in the same run.

Four models of Pythia's shapes in fp16: their mean (410m, and 1b where the disk has room), TIES of
four 160m's, and a mean of experts that trained 5 of their 24 layers, from a cold cache. Peers are
the ancestor's way (load all models, zip their parameters, average, save) and mergekit's
``mergekit-pytorch``. Each runs in a process of its own; imports are not counted.
"""

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import show

_ROUNDS = 2
_SHAPES = {
    "160m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "410m": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8},
}
_BYTES = {"160m": 0.33e9, "410m": 0.81e9, "1b": 2.03e9}
_TRAINED_LAYERS = (14, 15, 16, 17, 18)
_NUM_MODELS = 4

_HEAD = """
import os, resource, sys, time
from pathlib import Path
out, *models = map(Path, sys.argv[1:])
def now():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic(), used.ru_utime + used.ru_stime
"""
_TAIL = """
wall, cpu = (last - first for first, last in zip(started, now()))
print(wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, cpu)
"""
_OURS = """
import torch
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
recipe = MergeRecipe.model_validate({recipe!r} | {{"models": [{{"model": "seed"}}]}})
known = tuple("gpt_neox.layers.%d." % layer for layer in {layers!r}) or None
inputs = [MergeInput(m.name, m, {{}}, known) for m in models]
started = now()
base = inputs.pop(0) if recipe.base else None
merge_models(recipe, inputs, out, base=base, model_folder=models[0])
"""
_ANCESTOR = """
import torch
from transformers import AutoModelForCausalLM
started = now()
loaded = [AutoModelForCausalLM.from_pretrained(m, dtype=torch.float16) for m in models]
for parameters in zip(*(model.parameters() for model in loaded)):
    mean = sum(p.data for p in parameters) / len(parameters)
    parameters[0].data = mean
loaded[0].save_pretrained(out)
"""
_MERGEKIT = """
import yaml
from mergekit.scripts.merge_raw_pytorch import main
files = [str(m / "model.safetensors") for m in models]
named = [{{"model": file, "parameters": {{"weight": 1.0}}}} for file in files]
content = {recipe!r} | {{"models": named}}
if content["merge_method"] != "linear":
    content["base_model"] = content["models"].pop(0)["model"]
(out / "recipe.yml").write_text(yaml.safe_dump(content))
started = now()
main([str(out / "recipe.yml"), str(out / "merged")], standalone_mode=False)
"""
# Wall seconds, peak MiB, processor seconds.
Figures = tuple[float, float, float]


def main() -> None:
    """Print wall time as a ratio to ``cat``, and peak memory, for each way of merging."""
    linear = {"merge_method": "linear"}
    ties: dict[str, Any] = {
        "merge_method": "ties",
        "parameters": {"density": 0.3, "weight": 1.0},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape in ("410m", "1b"):
            if shutil.disk_usage(folder).free > 8 * _BYTES[shape]:
                models = _make_models(folder / "models", shape)
                _compare(f"merging/mean_{shape}", folder, models[1:], linear)
                shutil.rmtree(folder / "models")
        _compare_known(folder, _make_models(folder / "models", "410m", only_trained=True)[1:])
        shutil.rmtree(folder / "models")
        models = _make_models(folder / "models", "160m")
        _compare("merging/ties_160m", folder, models, ties, with_ancestor=False)


def _compare(
    name: str,
    folder: Path,
    models: Sequence[Path],
    recipe: dict[str, Any],
    *,
    with_ancestor: bool = True,
) -> None:
    """Run all ways in turns, so that a slow moment of the machine falls on all alike."""
    ways = {"ours": _OURS.format(recipe=recipe, layers=())}
    if with_ancestor:
        ways["ancestor"] = _ANCESTOR
    if importlib.util.find_spec("mergekit"):
        work = recipe if recipe["merge_method"] == "linear" else recipe | {"dtype": "float32"}
        ways["mergekit"] = _MERGEKIT.format(recipe=work | {"out_dtype": "float16"})
    found: dict[str, list[Figures]] = {way: [] for way in ("cat", *ways)}
    for _ in range(_ROUNDS):
        found["cat"].append(_cat(folder, models))
        for way, code in ways.items():
            found[way].append(_run(code, folder, models))
    limit, _, limit_cpu = min(found["cat"])
    show(f"{name}/cat", limit, "s")
    show(f"{name}/cat/processor_time", limit_cpu, "s")
    for way in ways:
        wall, peak, cpu = min(found[way])
        show(f"{name}/{way}/wall", wall / limit, "ratio", peer="cat of all inputs and one copy")
        show(f"{name}/{way}/peak_memory", peak, "MiB")
        show(f"{name}/{way}/processor_time", cpu, "s")
    for way in [way for way in ways if way != "ours"]:
        show(f"{name}/speed", min(found[way])[0] / min(found["ours"])[0], "ratio", peer=way)


def _compare_known(folder: Path, models: Sequence[Path]) -> None:
    """Compare cold runs that know from records which layers were trained with those that do not."""
    recipe = {"merge_method": "linear"}
    everything = {"merge_method": "linear", "parameters": {"normalize": False, "weight": 0.3}}
    ways = {
        "computed": _OURS.format(recipe=everything, layers=()),
        "compared": _OURS.format(recipe=recipe, layers=()),
        "known": _OURS.format(recipe=recipe, layers=_TRAINED_LAYERS),
    }
    found: dict[str, list[Figures]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, code in ways.items():
            found[way].append(_run(code, folder, models, cold=True))
    for way in ("compared", "known"):
        ratio = min(found[way])[0] / min(found["computed"])[0]
        show(f"merging/cold_410m/{way}", ratio, "ratio", peer="everything computed")


def _make_models(folder: Path, shape: str, *, only_trained: bool = False) -> list[Path]:
    """Save a seed and models of it; with ``only_trained`` a few of their layers differ."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = _SHAPES[shape]
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=50304, intermediate_size=4 * sizes["hidden_size"], **sizes
    )
    torch.manual_seed(0)
    seed = folder / "0"
    AutoModelForCausalLM.from_config(config).half().save_pretrained(seed)
    prefixes = tuple(f"gpt_neox.layers.{layer}." for layer in _TRAINED_LAYERS)
    tensors = load_file(seed / "model.safetensors")
    for number in range(1, _NUM_MODELS + 1):
        own = {
            name: tensor
            if only_trained and not name.startswith(prefixes)
            else tensor + 0.001 * torch.randn(tensor.shape).half()
            for name, tensor in tensors.items()
        }
        model = folder / str(number)
        shutil.copytree(seed, model, ignore=shutil.ignore_patterns("*.safetensors"))
        save_file(own, model / "model.safetensors", metadata={"format": "pt"})
    return [folder / str(number) for number in range(_NUM_MODELS + 1)]


def _cat(folder: Path, models: Sequence[Path]) -> Figures:
    """Read all inputs and write one as large as the output."""
    files = " ".join(f"{model}/model.safetensors" for model in models)
    copy = folder / "copy"
    command = f"cat {files} > /dev/null; cat {models[0]}/model.safetensors > {copy}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run(["sh", "-c", command], check=True)
    elapsed = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    copy.unlink()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed, 0.0, cpu


def _run(code: str, folder: Path, models: Sequence[Path], *, cold: bool = False) -> Figures:
    """Return what a way to merge takes, without its imports."""
    os.sync()
    if cold:
        for model in models:
            descriptor = os.open(model / "model.safetensors", os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        # A small process starts the other: a new one inherits the peak of its parent.
        command = [sys.executable, "-c", _HEAD + code + _TAIL, out, *map(str, models)]
        launcher = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
        output = subprocess.run(
            [sys.executable, "-c", launcher, *command],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout
    wall, peak, cpu = map(float, output.split()[-3:])
    return wall, peak, cpu


if __name__ == "__main__":
    main()
