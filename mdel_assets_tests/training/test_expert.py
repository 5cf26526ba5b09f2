"""Experts: what may move moves, everything else stays, and a killed run goes on."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mdel_assets.data.split_documents import SplitDocuments
from mdel_assets.errors import TrainingError, TrainingInterruptedError
from mdel_assets.experiment.fields import Pretraining
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.training.baseline import train_baseline
from mdel_assets.training.expert import differing_tensors, train_expert
from mdel_assets.training.model_files import load_tokenizer
from mdel_assets.training.optimize import last_whole_checkpoint, optimize
from mdel_assets.training.packing import pack
from mdel_assets.training.seed import pretrain_seed
from mdel_assets_tests.conftest import TRAINING, task_of, write_split
from mdel_assets_tests.families import FAMILIES


def train(seed_folder, dataset, folder, training=TRAINING, *, stops=False):
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return train_expert(
        training,
        seed_folder=seed_folder,
        dataset_folder=dataset,
        folder=folder / "out",
        work_folder=folder / "work",
        conditions=Conditions(max_seconds=0.0) if stops else NO_CONDITIONS,
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


@pytest.mark.in_use
@pytest.mark.parametrize("family", ["mixtral", "phimoe"])
@pytest.mark.parametrize("wanted", [("1.mlp",), (1,), ("0.attention", "head")])
def test_what_is_trained_is_named_as_it_is_stored(make_model, dataset, tmp_path, family, wanted):
    """In memory one tensor, ``mlp.experts``; in files one for each expert, under another name."""
    seed = make_model(family, **FAMILIES[family])
    training = TRAINING.model_copy(update={"trained_layers": wanted, "num_tokens": 256})
    result = train(seed, dataset, tmp_path, training)
    assert result.changed_though_frozen == []
    before, after = (load_file(f / "model.safetensors") for f in (seed, tmp_path / "out"))
    changed = {name for name in before if not before[name].equal(after[name])}
    named = {name for name in before if name.startswith(tuple(result.trained_prefixes))}
    inside = {
        ("1.mlp",): "model.layers.1.block_sparse_moe.",
        (1,): "model.layers.1.",
        ("0.attention", "head"): ("model.layers.0.self_attn.", "lm_head."),
    }[wanted]
    assert changed
    assert changed <= named
    assert named == {name for name in before if name.startswith(inside)}


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("store", ["full", "delta"])
def test_losses_are_the_same_where_frozen_layers_run_once_for_both(
    make_model, dataset, tmp_path, dtype, store
):
    """Held-out blocks reach the first trained layer before the training, and from there after."""
    seed = make_model(dtype="float16")
    found = {}
    for is_kept in (True, False):
        changes = {"cache_prefix": is_kept, "dtype": dtype, "store": store}
        folder = tmp_path / str(is_kept)
        result = train(seed, dataset, folder, TRAINING.model_copy(update=changes))
        found[is_kept] = result.losses_before, result.losses_after
        states = folder / "work" / "held-out" / "prefix.float32"
        assert states.exists() == is_kept
    assert found[True] == found[False]
    known = np.fromfile(tmp_path / "True" / "work" / "held-out" / "prefix.xxh3", np.uint64)
    assert known.all()


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"resid_pdrop": 0.2}),
        # Halves some weights, in place, whenever it goes from training to evaluation.
        ("rwkv", FAMILIES["rwkv"] | {"num_hidden_layers": 5, "rescale_every": 2}),
    ],
)
def test_neither_watching_nor_stops_change_what_comes_out(
    make_model, dataset, tmp_path, family, changes
):
    seed = make_model(family, **changes)
    short = TRAINING.model_copy(update={"num_tokens": 32 * 4 * 3})
    watched = short.model_copy(update={"eval_steps": 1, "logging_steps": 1, "save_steps": 2})
    ended = []
    for name, training in (("plain", short), ("watched", watched), ("stopped", watched)):
        result = None
        while result is None:
            with contextlib.suppress(TrainingInterruptedError):
                result = train(seed, dataset, tmp_path / name, training, stops=name == "stopped")
        tensors = load_file(tmp_path / name / "out" / "model.safetensors")
        ended.append(({n: t.numpy().tobytes() for n, t in tensors.items()}, result.losses_after))
    assert ended[1] == ended[0]
    assert ended[2] == ended[0]


@pytest.mark.in_use
def test_a_pretrained_seed_is_saved_as_it_was_judged(dataset, tmp_path):
    """RWKV's evaluation halves weights in place: what is saved is not what it leaves behind."""
    import torch
    from transformers import AutoModelForCausalLM

    sizes = {"num_hidden_layers": 5, "hidden_size": 32, "rescale_every": 2, "context_length": 64}
    pretraining = Pretraining(
        model={"model_type": "rwkv", **sizes, "attention_hidden_size": 32},
        vocab_size=320,
        learning_rate=3e-3,
        block_size=32,
        batch_size=4,
        num_tokens=512,
        num_validation_blocks=4,
    )
    result = pretrain_seed(
        pretraining, tmp_path / "out", datasets={"ArXiv": dataset}, work_folder=tmp_path / "work"
    )
    with pytest.raises(
        TrainingError, match=r"pretrain\.block_size is 65, but the model reads at most"
    ):
        pretrain_seed(
            pretraining.model_copy(update={"block_size": 65}),
            tmp_path / "out",
            datasets={"ArXiv": dataset},
            work_folder=tmp_path / "work",
        )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").train()
    assert model.config.rescale_every == 2
    held_out = SplitDocuments.of(dataset / "validation_domain.parquet")
    blocks = pack(
        held_out, load_tokenizer(tmp_path / "out"), block_size=32, num_blocks=4, seed=0
    ).astype(np.int64)
    with torch.no_grad():
        logits = model(torch.from_numpy(blocks)).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(blocks[:, 1:]).flatten())
    assert result.validation_loss == pytest.approx(expected.item(), rel=1e-5)


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


def pretrain(datasets, folder):
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    pretraining = Pretraining(
        model={"model_type": "gpt_neox", **sizes},
        vocab_size=320,
        learning_rate=3e-3,
        block_size=32,
        batch_size=4,
        num_tokens=128,
    )
    return pretrain_seed(
        pretraining, folder / "out", datasets=datasets, work_folder=folder / "work"
    )


def test_a_pretrained_seed_with_little_held_out_text_is_saved_without_a_loss(
    dataset, tmp_path, caplog
):
    write_split(tmp_path / "validation_domain.parquet", ["a few words"], domain="ArXiv")
    (tmp_path / "train.parquet").symlink_to(dataset / "train.parquet")
    result = pretrain({"ArXiv": tmp_path}, tmp_path)
    assert result.validation_loss is None
    assert "less than one block" in caplog.text
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_a_seed_with_less_text_than_a_block_is_refused_by_its_own_setting(tmp_path):
    write_split(tmp_path / "train.parquet", ["a few words"], domain="ArXiv")
    with pytest.raises(TrainingError, match=r"Lower seed_model\.pretrain\.block_size"):
        pretrain({"ArXiv": tmp_path}, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("seed_dtype", ["float32", "float16"])
def test_a_training_that_moves_nothing_in_half_precision_leaves_the_losses_as_they_were(
    make_model, dataset, tmp_path, family, is_tied, seed_dtype
):
    """A frozen embedding that is the output layer too stays as exact as it was."""
    seed = make_model(family, dtype=seed_dtype, tie_word_embeddings=is_tied)
    # No weight of fp32 changes by so little.
    changes = {"dtype": "bfloat16", "learning_rate": 1e-30, "num_tokens": 128}
    # Without kept states, the losses after begin with the embedding, too.
    training = TRAINING.model_copy(update={"cache_prefix": False, **changes})
    result = train(seed, dataset, tmp_path, training)
    assert result.losses_after == result.losses_before


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


@pytest.mark.in_use
def test_blocks_longer_than_the_model_reads_are_refused_before_any_text_is_read(
    make_model, tmp_path
):
    seed, missing = make_model(max_position_embeddings=31), tmp_path / "no dataset here"
    message = r"training\.block_size is 32, but the model reads at most 31 tokens\. Lower training"
    with pytest.raises(TrainingError, match=message):
        train(seed, missing, tmp_path / "run")
    with pytest.raises(TrainingError, match=message):
        train_baseline(
            TRAINING,
            num_experts=1,
            seed_folder=seed,
            dataset_folders={"arxiv": missing},
            folder=tmp_path,
            work_folder=tmp_path,
        )


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
    from mdel_assets.experiment.fields import ModelSource
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


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("store", ["full", "delta"])
def test_an_expert_of_each_family_is_scored_on_the_layers_it_shares(
    make_model, dataset, tmp_path, family, store
):
    from mdel_assets.experiment.evaluation import Evaluation
    from mdel_assets.scoring.perplexity import read_cells
    from mdel_assets.scoring.score_together import score_models

    seed = make_model(family)
    training = TRAINING.model_copy(update={"store": store})
    losses = train(seed, dataset, tmp_path, training)
    tasks = {
        name: task_of(model, tmp_path, f"scores-{name}")
        for name, model in (("seed", seed), ("expert", tmp_path / "out"))
    }
    evaluation = Evaluation(max_length=32, splits=("validation_domain",))
    results = dict(score_models(tasks, datasets={"arxiv": dataset}, evaluation=evaluation))
    assert [result.num_shared_layers for result in results.values()] == [1, 1]
    bits = {name: read_cells(task.folder)[0].bits_per_byte for name, task in tasks.items()}
    before, after = (
        loss["validation_domain"] for loss in (losses.losses_before, losses.losses_after)
    )
    # Packed blocks and rolling windows differ in context only.
    assert bits["expert"] / bits["seed"] == pytest.approx(after / before, rel=0.1)
