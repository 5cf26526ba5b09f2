"""Models scored in packs: the figures of each alone, nothing lost to a kill or a broken model."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.errors import MdelError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.line.kind import Part
from mdel_assets.scoring import loading, score_together
from mdel_assets.scoring.score_together import (
    ScoringResult,
    score_models,
    score_part,
    wholly_scored,
)
from mdel_assets.scoring.spread_layers import Memory
from mdel_assets_tests.conftest import task_of, write_split
from mdel_assets_tests.families import FAMILIES

EVALUATION = Evaluation(max_length=16, splits=("validation_domain",))
TEXTS = [f"theorem {n} " + "lemma epsilon " * (n % 7) for n in range(30)]


def variant(folder, target, *, change):
    """Copy a model folder, its last layer's tensors changed by ``change``."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    for name in tensors:
        if ".layers.2." in name:
            tensors[name] = change(tensors[name])
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture
def models(make_model, tmp_path):
    """A seed and two variants of its last layer."""
    seed = make_model()
    return {
        "seed": seed,
        "one": variant(seed, tmp_path / "one", change=lambda t: t * 1.1),
        "two": variant(seed, tmp_path / "two", change=lambda t: t * 0.9),
    }


@pytest.fixture
def datasets(tmp_path):
    (tmp_path / "data").mkdir()
    write_split(tmp_path / "data" / "validation_domain.parquet", TEXTS, domain="arxiv")
    return {"arxiv": tmp_path / "data"}


def run(tasks, datasets, memory=None):
    return dict(score_models(tasks, datasets=datasets, evaluation=EVALUATION, memory=memory))


def stored(folder):
    table = pq.read_table(folder / "documents.parquet")
    values = table.column("log_probabilities").to_pylist()
    return dict(zip(table.column("document_id").to_pylist(), values, strict=True))


def assert_same_scores(folder, other):
    ours, theirs = stored(folder), stored(other)
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        np.testing.assert_allclose(values, theirs[key], rtol=0, atol=1e-5)


def test_a_pack_gets_the_figures_of_each_model_alone(models, datasets, tmp_path, monkeypatch):
    monkeypatch.setitem(score_together._TOKENS_PER_CHUNK, "cpu", 50)
    together = {name: task_of(folder, tmp_path, f"t-{name}") for name, folder in models.items()}
    results = run(together, datasets)
    assert {r.num_shared_layers for r in results.values()} == {2}
    for name, folder in models.items():
        alone = task_of(folder, tmp_path, f"a-{name}")
        (result,) = run({name: alone}, datasets).values()
        assert result.num_shared_layers == 0
        assert result.num_tokens == results[name].num_tokens
        assert_same_scores(together[name].folder, alone.folder)
        assert len(list(together[name].work_folder.glob("*.parquet"))) > 3


def test_a_broken_model_does_not_stop_the_others(make_model, models, datasets, tmp_path):
    models["small"] = make_model("llama", vocab_size=300)
    models["nan"] = variant(models["seed"], tmp_path / "nan", change=lambda t: t * torch.nan)
    models["gone"] = shutil.copytree(models["seed"], tmp_path / "gone")
    (models["gone"] / "model.safetensors").unlink()
    models["no tokenizer"] = shutil.copytree(models["seed"], tmp_path / "bare")
    for path in models["no tokenizer"].glob("tokenizer*"):
        path.unlink()
    tasks = {name: task_of(folder, tmp_path, f"s-{name}") for name, folder in models.items()}
    results = run(tasks, datasets)
    failed = {name: str(r) for name, r in results.items() if isinstance(r, MdelError)}
    assert set(failed) == {"nan", "gone", "no tokenizer", "small"}
    assert "ids up to 319, but the model's embedding has 300 rows" in failed["small"]
    assert "not finite" in failed["nan"]
    assert "could not be loaded" in failed["gone"]
    alone = task_of(models["one"], tmp_path, "alone")
    run({"one": alone}, datasets)
    assert_same_scores(tasks["one"].folder, alone.folder)


@pytest.mark.in_use
def test_a_model_whose_own_code_fails_does_not_stop_the_others(
    make_model, models, datasets, tmp_path
):
    # CodeGen's attention wants a number of heads that four divides.
    models["bad"] = make_model("codegen", **FAMILIES["codegen"] | {"num_attention_heads": 2})
    tasks = {name: task_of(folder, tmp_path, f"s-{name}") for name, folder in models.items()}
    results = run(tasks, datasets)
    assert [name for name, r in results.items() if isinstance(r, MdelError)] == ["bad"]
    assert "CodeGenForCausalLM fails with RuntimeError: shape" in str(results["bad"])


def test_more_models_than_a_pack_holds(models, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_MODELS_PER_PACK", 2)
    tasks = {name: task_of(folder, tmp_path, f"s-{name}") for name, folder in models.items()}
    results = run(tasks, datasets)
    assert [r.num_shared_layers for r in results.values()] == [2, 2, 0]
    assert all(isinstance(r, ScoringResult) for r in results.values())


def test_little_memory_makes_packs_of_one(models, datasets, tmp_path):
    # A model fits, but half of the memory does not hold two.
    memory = Memory((), 2 * (models["seed"] / "model.safetensors").stat().st_size)
    tasks = {name: task_of(folder, tmp_path, f"s-{name}") for name, folder in models.items()}
    assert {r.num_shared_layers for r in run(tasks, datasets, memory).values()} == {0}


def test_parts_in_any_order_make_the_bytes_of_one_process(models, datasets, tmp_path, monkeypatch):
    monkeypatch.setitem(score_together._TOKENS_PER_CHUNK, "cpu", 50)
    alone = {name: task_of(folder, tmp_path, f"a-{name}") for name, folder in models.items()}
    run(alone, datasets)
    tasks = {name: task_of(folder, tmp_path, f"p-{name}") for name, folder in models.items()}
    given = {"datasets": datasets, "evaluation": EVALUATION}
    shared = dict(list(tasks.items())[:2])
    for number in (2, 0, 1):
        assert wholly_scored(tasks, **given) == []
        assert dict(score_part(shared, Part(number, 3), **given)) == dict.fromkeys(shared)
        # Begun anew after a kill, it has nothing to do.
        files = {path for task in tasks.values() for path in task.work_folder.glob("*")}
        assert dict(score_part(shared, Part(number, 3), **given)) == dict.fromkeys(shared)
        assert files == {path for task in tasks.values() for path in task.work_folder.glob("*")}
    assert wholly_scored(tasks, **given) == list(shared)
    results = run(tasks, datasets)
    assert [result.num_documents_scored_now for result in results.values()] == [0, 0, len(TEXTS)]
    for name, task in tasks.items():
        for file in ("documents.parquet", "cells.parquet"):
            assert (task.folder / file).read_bytes() == (alone[name].folder / file).read_bytes()


def test_a_part_tells_which_model_cannot_be_scored(models, datasets, tmp_path):
    models["bad"] = tmp_path / "nowhere"
    tasks = {name: task_of(folder, tmp_path, f"s-{name}") for name, folder in models.items()}
    found = dict(score_part(tasks, Part(0, 2), datasets=datasets, evaluation=EVALUATION))
    assert [name for name, error in found.items() if error] == ["bad"]


CODE = """
import sys
from pathlib import Path
from mdel_assets.scoring import loading, score_together
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets_tests.conftest import task_of

score_together._TOKENS_PER_CHUNK["cpu"] = 50
parent, data, *models = map(Path, sys.argv[1:])
evaluation = Evaluation(max_length=16, splits=("validation_domain",))
keep = score_together.keep_chunk
def slow(*arguments):
    keep(*arguments)
    print("chunk", flush=True)
    sys.stdin.readline()
score_together.keep_chunk = slow
tasks = {m.name: task_of(m, parent, f"k-{m.name}") for m in models}
list(score_together.score_models(tasks, datasets={"arxiv": data}, evaluation=evaluation))
"""


@pytest.mark.slow
def test_what_was_killed_goes_on_after_its_last_chunk(models, datasets, tmp_path):
    folders = [models[name] for name in ("one", "two")]
    command = [sys.executable, "-c", CODE, *map(str, (tmp_path, datasets["arxiv"], *folders))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        for _ in range(5):
            assert process.stdout.readline() == "chunk\n"
            process.stdin.write("\n")
            process.stdin.flush()
        # Between the two models' sixth and seventh chunks, or before either.
        process.kill()
    assert process.returncode == -signal.SIGKILL
    tasks = {folder.name: task_of(folder, tmp_path, f"k-{folder.name}") for folder in folders}
    assert not any((task.folder / "documents.parquet").exists() for task in tasks.values())
    results = run(tasks, datasets)
    for name, result in results.items():
        assert 0 < result.num_documents_scored_now < result.num_documents == len(TEXTS)
        fresh = task_of(models[name], tmp_path, f"f-{name}")
        run({name: fresh}, datasets)
        assert_same_scores(tasks[name].folder, fresh.folder)
