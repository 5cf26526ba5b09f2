"""Adapters: trained in place of weights, stored as PEFT stores them, merged into weights once."""

import json
import signal
import time

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mdel_assets.errors import TrainingError, TrainingInterruptedError
from mdel_assets.experiment.adapters import Adapter
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.training.expert import train_expert
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import TRAINING
from mdel_assets_tests.families import FAMILIES
from mdel_assets_tests.training.test_interruptions import LONG, Run

IDS = torch.arange(48).reshape(2, 24) * 7 % 320


def train(seed, dataset, folder, *, stops=False, **changes):
    training = TRAINING.model_copy(
        update={"adapter": Adapter(rank=4), "learning_rate": 2e-2, **changes}
    )
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return train_expert(
        training,
        seed_folder=seed,
        dataset_folder=dataset,
        folder=folder / "out",
        work_folder=folder / "work",
        conditions=Conditions(max_seconds=0.0) if stops else NO_CONDITIONS,
    )


def loaded(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def adapted(seed, folder):
    """Return the seed with the stored adapter, as PEFT loads it."""
    return PeftModel.from_pretrained(loaded(seed), folder, subfolder="adapter").eval()


def bytes_in(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("store", ["full", "delta"])
def test_the_stored_model_is_the_one_that_peft_merges(make_model, dataset, tmp_path, family, store):
    seed = make_model(family)
    result = train(seed, dataset, tmp_path, store=store)
    ours, by_peft = loaded(tmp_path / "out"), adapted(seed, tmp_path / "out")
    with torch.no_grad():
        logits = by_peft(IDS).logits
        assert (ours(IDS).logits - logits).abs().max() < 1e-4
        # The adapter has moved far from the seed.
        assert (loaded(seed)(IDS).logits - logits).abs().max() > 0.1
    merged = dict(by_peft.merge_and_unload().named_parameters())
    found, before = dict(ours.named_parameters()), dict(loaded(seed).named_parameters())
    assert merged.keys() == found.keys()
    assert max((merged[name] - found[name]).abs().max() for name in merged) < 1e-6
    moved = {name for name in found if not found[name].equal(before[name])}
    inside = {name for name in before if is_in_trained_layer(name) and before[name].dim() == 2}
    assert moved == inside
    assert result.changed_though_frozen == []
    losses = result.losses_before, result.losses_after
    assert losses[1]["validation_domain"] < losses[0]["validation_domain"] - 0.3


def is_in_trained_layer(name):
    return any(f".{layers}.{number}." in name for layers in ("layers", "h") for number in (1, 2))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_are_rounded_once(make_model, dataset, tmp_path, dtype):
    """The rounding of the fp32 sum is stored: not a sum of roundings."""
    seed = make_model("llama", dtype=dtype)
    result = train(seed, dataset, tmp_path)
    by_peft = dict(adapted(seed, tmp_path / "out").merge_and_unload().named_parameters())
    stored = load_file(tmp_path / "out" / "model.safetensors")
    wrong = [n for n, t in stored.items() if not t.equal(by_peft[n].to(t.dtype))]
    # The product of two matrices may end in another last bit, which seldom changes the rounding.
    num_other = sum(int((stored[n] != by_peft[n].to(stored[n].dtype)).sum()) for n in wrong)
    assert num_other < 1e-3 * sum(t.numel() for t in stored.values())
    assert result.changed_though_frozen == []


def test_an_adapter_counts_and_stores_what_it_trains(make_model, dataset, tmp_path):
    seed = make_model("llama")
    adapter = Adapter(rank=2, alpha=3, targets=("q_proj", "mlp.up_proj"))
    result = train(seed, dataset, tmp_path, adapter=adapter, store="delta")
    # In each of two layers, rank times the widths of both sides: 2 * (32 + 32) + 2 * (32 + 64).
    assert result.num_trained_parameters == 2 * (128 + 192)
    whole = sum(p.numel() for p in loaded(seed).parameters())
    assert result.num_frozen_parameters == whole - 2 * (32 * 32 + 32 * 64)
    weights = [
        f"model.layers.{n}.{m}.weight" for n in (1, 2) for m in ("mlp.up_proj", "self_attn.q_proj")
    ]
    assert sorted(result.trained_prefixes) == sorted(weights)
    assert sorted(load_file(tmp_path / "out" / "model-00002-of-00002.safetensors")) == sorted(
        weights
    )
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 3)
    stored = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert len(stored) == 8
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stopped_training_ends_in_the_bytes_of_one_that_was_not(
    make_model, dataset, tmp_path, dtype
):
    """Dropout draws at every step, so the random state must come back, too."""
    seed = make_model("gpt_neox", dtype="float16")
    changes = {"num_tokens": 32 * 4 * 4, "dtype": dtype, "adapter": Adapter(rank=4, dropout=0.3)}
    whole = train(seed, dataset, tmp_path / "whole", **changes)
    num_stops, result = 0, None
    while result is None:
        try:
            result = train(seed, dataset, tmp_path / "cut", stops=True, **changes)
        except TrainingInterruptedError:
            num_stops += 1
    assert num_stops == 3
    assert bytes_in(tmp_path / "cut" / "out") == bytes_in(tmp_path / "whole" / "out")
    assert result.losses_after == whole.losses_after


@pytest.mark.slow
def test_a_training_of_an_adapter_killed_three_times_ends_in_the_same_bytes(
    make_model, dataset, tmp_path
):
    seed = make_model("llama")
    training = LONG.model_copy(update={"adapter": Adapter(rank=4, dropout=0.1)})
    whole, cut = (Run(seed, dataset, tmp_path / name, training) for name in ("whole", "cut"))
    whole.finish()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = cut.step()
        with cut.start() as process:
            while process.poll() is None and cut.step() <= before:
                time.sleep(0.001)
            process.send_signal(number)
            process.communicate()
        assert process.returncode != 0, "the training is too short for three kills"
    cut.finish()
    assert bytes_in(cut.out) == bytes_in(whole.out)


def test_layers_below_the_adapters_run_once(make_model, dataset, tmp_path):
    seed = make_model("llama")
    found = {}
    for is_kept in (True, False):
        folder = tmp_path / str(is_kept)
        train(seed, dataset, folder, cache_prefix=is_kept, num_epochs=2.0)
        found[is_kept] = bytes_in(folder / "out")
        for place in ("prefix.float32", "held-out/prefix.float32"):
            assert (folder / "work" / place).exists() == is_kept
    assert found[True] == found[False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": ("q_prj",)},
            r"adapter\.targets: Unknown target 'q_prj'. Did you mean 'q_proj'",
        ),
        ({"targets": ("lm_head",)}, r"'lm_head' lies outside of training\.trained_layers"),
        ({"targets": ("input_layernorm",)}, "Unknown target 'input_layernorm'"),
    ],
)
def test_a_target_that_cannot_be_adapted_is_refused(
    make_model, dataset, tmp_path, changes, message
):
    with pytest.raises(TrainingError, match=message):
        train(make_model("llama"), dataset, tmp_path, adapter=Adapter(**changes))


@pytest.mark.parametrize("family", ["bloom", "falcon", "gptj", "mixtral", "opt", "phimoe", "rwkv"])
def test_other_families_are_adapted_too(make_model, dataset, tmp_path, family):
    seed = make_model(family, **FAMILIES[family])
    train(seed, dataset, tmp_path, num_tokens=512)
    stored = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all(tensor.any() for name, tensor in stored.items() if "lora_B" in name)
    with torch.no_grad():
        ours, by_peft = (m(IDS).logits for m in both(seed, tmp_path / "out"))
    assert (ours - by_peft).abs().max() < 1e-4


def both(seed, folder):
    return loaded(folder), adapted(seed, folder)


@pytest.mark.parametrize(
    ("family", "message"),
    [("jamba", "reads the weights of dt_proj without"), ("mamba", "reads the weights of ")],
)
def test_layers_that_never_run_are_refused(make_model, dataset, tmp_path, family, message):
    with pytest.raises(TrainingError, match=message):
        train(make_model(family, **FAMILIES[family]), dataset, tmp_path)


def test_layers_without_linear_layers_are_refused(make_model, dataset, tmp_path):
    with pytest.raises(TrainingError, match="names no linear layer, so"):
        train(make_model("llama"), dataset, tmp_path, trained_layers=("1.norms",))


def test_a_missing_library_is_refused_with_the_remedy(make_model, tmp_path):
    code = f"""
import sys
sys.modules["peft"] = None
from pathlib import Path
from mdel_assets.experiment.adapters import Adapter
from mdel_assets.training.expert import train_expert
from mdel_assets_tests import warm_python
from mdel_assets_tests.conftest import TRAINING
from mdel_assets_tests.training.test_interruptions import LONG, Run
train_expert(
    TRAINING.model_copy(update={{"adapter": Adapter()}}),
    seed_folder=Path({str(make_model())!r}), dataset_folder=Path("none"), folder=None,
    work_folder=Path({str(tmp_path)!r}),
)
"""
    done = warm_python.run(["-c", code])
    assert done.returncode == 1
    assert "needs PEFT, which is not installed: install the extra 'lora'" in done.stdout
