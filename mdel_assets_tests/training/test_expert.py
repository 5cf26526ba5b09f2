"""Experts: what may move moves, everything else stays, and a killed run goes on."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mdel_assets.errors import TrainingError
from mdel_assets.training.expert import differing_tensors, train_expert
from mdel_assets.training.optimize import last_whole_checkpoint, optimize
from mdel_assets_tests.conftest import TRAINING


def train(seed_folder, dataset, folder, training=TRAINING):
    (folder / "out").mkdir(parents=True)
    return train_expert(
        training,
        seed_folder=seed_folder,
        dataset_folder=dataset,
        folder=folder / "out",
        work_folder=folder / "work",
    )


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_frozen_tensors_equal_the_seed_bit_for_bit(make_model, dataset, tmp_path, family, dtype):
    seed = make_model(family, dtype=dtype)
    result = train(seed, dataset, tmp_path)
    before, after = (load_file(f / "model.safetensors") for f in (seed, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {
        name for name in before if before[name].numpy().tobytes() != after[name].numpy().tobytes()
    }
    layers = {name for name in before if ".layers.1." in name or ".layers.2." in name}
    assert changed
    assert changed <= layers
    assert {name for name in layers if name.endswith("weight") and "norm" not in name} <= changed
    assert {after[name].dtype for name in after} == {before[name].dtype for name in before}
    assert result.changed_though_frozen == []


@pytest.mark.parametrize(
    ("family", "wanted", "moved"),
    [
        ("gpt_neox", ("1.mlp", "head"), ("gpt_neox.layers.1.mlp.", "lm_head.", "embed_out.")),
        ("gpt2", ("2.attention", "final_norm"), ("transformer.h.2.attn.", "transformer.ln_f.")),
        ("llama", ("embeddings",), ("model.embed_tokens.",)),
    ],
)
def test_only_the_named_parts_move(make_model, dataset, tmp_path, family, wanted, moved):
    seed = make_model(family)
    training = TRAINING.model_copy(update={"trained_layers": wanted})
    result = train(seed, dataset, tmp_path, training)
    before, after = (load_file(f / "model.safetensors") for f in (seed, tmp_path / "out"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(name.startswith(moved) for name in changed)
    assert all(any(name.startswith(prefix) for name in changed) for prefix in moved[:1])
    assert result.changed_though_frozen == []


def test_training_on_a_domain_lowers_its_validation_loss(make_model, dataset, tmp_path):
    result = train(make_model(), dataset, tmp_path)
    before, after = result.losses_before, result.losses_after
    assert after["validation_domain"] < before["validation_domain"] - 0.5
    assert after["validation_domain"] - before["validation_domain"] < (
        after["validation_pile"] - before["validation_pile"]
    )
    assert result.history.num_steps == 16
    assert result.history.num_tokens == 2048
    assert result.trained_layers == [1, 2]


def test_half_precision_trains_fp32_weights_and_leaves_frozen_ones_alone(
    make_model, dataset, tmp_path
):
    seed = make_model()
    exact = train(seed, dataset, tmp_path / "exact")
    training = TRAINING.model_copy(update={"dtype": "bfloat16"})
    half = train(seed, dataset, tmp_path / "half", training)
    assert half.changed_though_frozen == []
    ours, theirs = (
        load_file(tmp_path / name / "out" / "model.safetensors") for name in ("half", "exact")
    )
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    assert ours[name].dtype == theirs[name].dtype
    assert not ours[name].equal(theirs[name])
    # Weights are not rounded to half precision.
    assert not ours[name].equal(ours[name].bfloat16().float())
    loss = half.losses_after["validation_domain"]
    assert loss == pytest.approx(exact.losses_after["validation_domain"], rel=0.01)


def test_a_changed_frozen_tensor_is_found(make_model, tmp_path):
    seed = make_model()
    shutil.copytree(seed, tmp_path / "other")
    tensors = load_file(seed / "model.safetensors")
    name = "gpt_neox.layers.0.attention.dense.weight"
    tensors[name][0, 0] += 1e-6
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    allowed = ["gpt_neox.layers.1."]
    assert differing_tensors(tmp_path / "other", seed, except_under=allowed) == [name]
    assert differing_tensors(tmp_path / "other", seed, except_under=["gpt_neox.layers.0."]) == []


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step, state in ((8, '{"global_step": 8}'), (10, '{"global'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-8"]


def test_a_layer_that_does_not_exist_is_refused_before_any_text_is_read(make_model, tmp_path):
    training = TRAINING.model_copy(update={"trained_layers": (3,)})
    with pytest.raises(TrainingError, match="layer 3 does not exist; the seed model has 3 layers"):
        train(make_model(), tmp_path / "no dataset here", tmp_path / "run", training)


def test_a_run_that_diverges_stops_with_the_remedy(make_model, tmp_path):
    from mdel_assets.training.model_files import load_model

    model = load_model(make_model())
    settings = TRAINING.model_copy(update={"learning_rate": 1e30, "warmup_ratio": 0.0})
    blocks = np.random.default_rng(0).integers(0, 320, (64, 32)).astype(np.int32)
    with pytest.raises(TrainingError, match=r"diverged\. Lower training\.learning_rate"):
        optimize(model, blocks, settings, work_folder=tmp_path)


def test_a_seed_without_weights_or_with_pickled_ones_is_refused(make_model, dataset, tmp_path):
    import torch

    seed = make_model()
    for name in ("bare", "pickled"):
        shutil.copytree(seed, tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
    torch.save(load_file(seed / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    for name in ("bare", "pickled"):
        with pytest.raises(TrainingError, match="safetensors"):
            train(tmp_path / name, dataset, tmp_path / f"run-{name}")


def test_a_tokenizer_that_does_not_fit_is_refused(make_model, tmp_path):
    from mdel_assets.experiment_fields import ModelSource
    from mdel_assets.training.seed import adopt_model

    seed = make_model()
    shutil.copytree(seed, tmp_path / "seed")
    path = tmp_path / "seed" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zzz"] = 999
    path.write_text(json.dumps(content))
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match="ids up to 999, but the model's embedding has 320"):
        source = ModelSource(path=str(tmp_path / "seed"))
        adopt_model(source, tmp_path / "out", cache=tmp_path)
