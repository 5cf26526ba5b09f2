"""Merges from files to files: what is compared, refused, copied, and which bytes come out."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.errors import MergeError
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets_tests.merging.folders import (
    ONE,
    TWO,
    merge,
    merged_tensors,
    recipe_of,
    save_folder,
)

LINEAR = recipe_of("linear")


@pytest.mark.parametrize("largest_piece", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_are_merged_tensor_by_tensor(tmp_path, largest_piece, dtype):
    first = {"w": ONE.to(dtype), "b": torch.tensor(1.0, dtype=dtype), "e": torch.empty(0, 2)}
    second = {"w": TWO.to(dtype), "b": torch.tensor(3.0, dtype=dtype), "e": torch.empty(0, 2)}
    models = save_folder(tmp_path / "a", first), save_folder(tmp_path / "b", second)
    result = merge(tmp_path, LINEAR, *models, largest_piece=largest_piece)
    merged = merged_tensors(tmp_path)
    assert merged["w"].tolist() == [[3.0, 4.0], [5.0, 8.0]]
    assert merged["b"].item() == 2.0
    assert merged["e"].shape == (0, 2)
    assert {merged["w"].dtype, merged["b"].dtype} == {dtype}
    assert (result.num_tensors, result.num_parameters, result.non_finite) == (3, 5, [])


def test_an_output_dtype_can_be_asked_for(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE, "same": ONE.clone()})
    second = save_folder(tmp_path / "b", {"w": TWO, "same": ONE.clone()})
    merge(tmp_path, recipe_of("linear", dtype="float16", out_dtype="bfloat16"), first, second)
    merged = merged_tensors(tmp_path)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert merged["same"].tolist() == ONE.tolist()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_both_names_of_gpt_neoxs_output_layer_are_one_tensor(tmp_path):
    first = save_folder(tmp_path / "a", {"embed_out.weight": ONE})
    second = save_folder(tmp_path / "b", {"lm_head.weight": TWO})
    merge(tmp_path, LINEAR, first, second)
    merged = {name: tensor.tolist() for name, tensor in merged_tensors(tmp_path).items()}
    assert merged == {"embed_out.weight": [[3.0, 4.0], [5.0, 8.0]]}


def test_buffers_that_transformers_rebuilds_may_be_missing_and_are_left_out(tmp_path):
    buffers = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 2, 2, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(float("-inf")),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    }
    kept = {"gpt_neox.layers.0.attention.dense.bias": torch.ones(2)}
    first = save_folder(tmp_path / "a", kept | buffers)
    second = save_folder(tmp_path / "b", kept)
    merge(tmp_path, LINEAR, first, second)
    assert set(merged_tensors(tmp_path)) == set(kept)


def test_every_difference_between_the_models_is_named(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE, "h": ONE.clone(), "only_first": ONE.clone()})
    tensors = {"w": TWO[:1].clone(), "h": ONE.half(), "only_second": TWO}
    second = save_folder(tmp_path / "b", tensors, vocabulary={"b": 0})
    with pytest.raises(MergeError) as refused:
        merge(tmp_path, LINEAR, first, second)
    for difference in (
        "model-1 has another tokenizer vocabulary than a",
        "model-1 lacks only_first",
        "model-0 lacks only_second",
        "w is [2, 2] in model-0, [1, 2] in model-1",
        "h is F32 in model-0, F16 in model-1 (set out_dtype",
    ):
        assert difference in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_dtypes_may_differ_where_the_recipe_says_what_comes_out(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE})
    second = save_folder(tmp_path / "b", {"w": TWO.half()})
    merge(tmp_path, recipe_of("linear", out_dtype="float32"), first, second)
    assert merged_tensors(tmp_path)["w"].tolist() == [[3.0, 4.0], [5.0, 8.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_nan_or_infinity_in_an_input_is_refused_by_the_name_of_its_tensor(tmp_path, bad, method):
    broken = TWO.clone()
    broken[1, 0] = bad
    tensors = {"good": TWO, "w": broken}
    first = save_folder(tmp_path / "a", {"good": ONE, "w": ONE.clone()})
    second = save_folder(tmp_path / "b", tensors)
    base = first if method != "linear" else None
    with pytest.raises(MergeError, match="model-1 holds a NaN or infinity in w"):
        merge(tmp_path, recipe_of(method), first, second, base=base)
    copy = save_folder(tmp_path / "c", tensors)
    with pytest.raises(MergeError, match="holds a NaN or infinity in w"):
        merge(tmp_path, recipe_of(method), second, copy, base=second if base else None)


def test_what_the_outputs_dtype_cannot_hold_is_named(tmp_path):
    large = {"w": torch.tensor([60000.0, 1.0]), "v": torch.tensor([1.0, 2.0])}
    first, second = (save_folder(tmp_path / name, large) for name in "ab")
    recipe = recipe_of("linear", parameters={"normalize": False}, out_dtype="float16")
    assert merge(tmp_path, recipe, first, second).non_finite == ["w"]
    huge = save_folder(tmp_path / "c", {"w": torch.tensor([3e38, 1.0]), "v": torch.ones(2)})
    recipe = recipe_of("linear", parameters={"normalize": False})
    assert merge(tmp_path, recipe, huge, huge).non_finite == ["w"]


def test_weights_that_cancel_are_refused(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE}), {"weight": 1.0}
    second = save_folder(tmp_path / "b", {"w": TWO}), {"weight": -1.0}
    with pytest.raises(MergeError, match="sum to zero"):
        merge(tmp_path, LINEAR, first, second)
    merge(tmp_path, recipe_of("linear", parameters={"normalize": False}), first, second)
    assert merged_tensors(tmp_path)["w"].tolist() == [[-4.0, -4.0], [-4.0, -8.0]]


def test_integers_are_copied_where_they_agree_and_refused_where_not(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE, "n": torch.tensor([1, 2])})
    second = save_folder(tmp_path / "b", {"w": TWO, "n": torch.tensor([1, 2])})
    merge(tmp_path, recipe_of("linear", out_dtype="float16"), first, second)
    assert merged_tensors(tmp_path)["n"].tolist() == [1, 2]
    assert merged_tensors(tmp_path)["n"].dtype == torch.int64
    third = save_folder(tmp_path / "c", {"w": TWO, "n": torch.tensor([1, 3])})
    with pytest.raises(MergeError, match="n holds I64, which cannot be merged, and differs"):
        merge(tmp_path, LINEAR, first, third)


def random_folders(tmp_path, count, *, dtype=torch.float32):
    """Models of six tensors, of which two are equal in all: one layer's, and the embedding."""
    torch.manual_seed(0)
    shapes = {f"model.layers.{layer}.w": (37, 29) for layer in range(3)}
    shapes |= {"model.embed_tokens.weight": (53, 29), "lm_head.weight": (53, 29), "norm": (29,)}
    shared = {"model.layers.0.w", "model.embed_tokens.weight"}
    first = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    folders = []
    for number in range(count):
        tensors = {
            name: tensor if name in shared else (tensor + torch.randn(tensor.shape)).to(dtype)
            for name, tensor in first.items()
        }
        folders.append(save_folder(tmp_path / f"random-{number}", tensors))
    return folders, first, shared


def test_tensors_equal_in_all_inputs_are_copied_to_the_bit(tmp_path):
    """Computed, the mean of three equal numbers is not always that number."""
    folders, first, shared = random_folders(tmp_path, 3)
    result = merge(tmp_path, LINEAR, *folders)
    assert result.num_copied_tensors == len(shared)
    merged = merged_tensors(tmp_path)
    for name in shared:
        assert torch.equal(merged[name], first[name])
    summed = recipe_of("linear", parameters={"normalize": False})
    assert merge(tmp_path, summed, *folders).num_copied_tensors == 0
    torch.testing.assert_close(
        merged_tensors(tmp_path)["model.layers.0.w"], 3 * first["model.layers.0.w"]
    )


def test_layers_known_from_records_are_not_even_read(tmp_path):
    """A NaN where only the seed's copy is read would be seen; elsewhere it is not."""
    folders, first, _ = random_folders(tmp_path, 2)
    tensors = load_file(folders[1] / "model.safetensors")
    tensors["model.layers.0.w"] = torch.full((37, 29), float("nan"))
    save_file(tensors, folders[1] / "model.safetensors")
    (tmp_path / "out").mkdir()
    inputs = [
        MergeInput(f"model-{number}", path, {"weight": 1.0}, ("model.layers.1.", "model.layers.2."))
        for number, path in enumerate(folders)
    ]
    result = merge_models(LINEAR, inputs, tmp_path / "out", model_folder=folders[0])
    # Everything outside of layers 1 and 2: layer 0, both embeddings, the norm.
    assert result.num_copied_tensors == 4
    assert torch.equal(merged_tensors(tmp_path)["model.layers.0.w"], first["model.layers.0.w"])


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_model_of_weight_zero_changes_nothing(tmp_path, method):
    folders, _, _ = random_folders(tmp_path, 4)
    base = folders.pop() if method != "linear" else None
    recipe = recipe_of(method, parameters={"normalize": True})
    weighted = [(folder, {"weight": 0.7}) for folder in folders]
    merge(tmp_path, recipe, *weighted[:2], base=base, out="without")
    merge(tmp_path, recipe, *weighted[:2], (folders[2], {"weight": 0.0}), base=base, out="with")
    for name in ("without", "with"):
        assert (tmp_path / name / "model.safetensors").is_file()
    assert (tmp_path / "with" / "model.safetensors").read_bytes() == (
        tmp_path / "without" / "model.safetensors"
    ).read_bytes()


def test_sharded_output_has_an_index_and_the_same_tensors(tmp_path):
    folders, _, _ = random_folders(tmp_path, 2)
    merge(tmp_path, LINEAR, *folders, out="whole")
    large = {f"part-{n}": torch.randn(300_000) for n in range(3)}
    more = [save_folder(tmp_path / f"large-{n}", large) for n in range(2)]
    merge(tmp_path, recipe_of("linear", mdel={"max_shard_mib": 2}), *more, out="shards")
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 3_600_000
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    merged = merged_tensors(tmp_path, "shards")
    assert all(torch.equal(merged[name], large[name]) for name in large)
    # A sharded model is an input like any other.
    merge(tmp_path, LINEAR, tmp_path / "shards", more[0], out="again")
    assert all(torch.equal(merged_tensors(tmp_path, "again")[name], large[name]) for name in large)


def test_files_other_than_weights_come_from_the_model_folder(tmp_path):
    first = save_folder(tmp_path / "a", {"w": ONE})
    second = save_folder(tmp_path / "b", {"w": TWO})
    (first / "generation_config.json").write_text('{"max_length": 7}')
    for left_behind in ("record.json", "modeling_own.py", "pytorch_model.bin", "README.md"):
        (first / left_behind).write_text("{}")
    merge(tmp_path, LINEAR, first, second)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize(
    ("family", "tied"), [("gpt_neox", False), ("llama", False), ("llama", True)]
)
def test_a_merged_model_loads_and_holds_the_mean(make_model, tmp_path, family, tied):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [make_model(family, seed=seed, tie_word_embeddings=tied) for seed in (1, 2)]
    merge(tmp_path, LINEAR, *models)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    merged = loaded.state_dict()
    first, second = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in models)
    for name, value in merged.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=0, atol=1e-6)
    embeddings = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert (embeddings[0].data_ptr() == embeddings[1].data_ptr()) == tied
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("proof")["input_ids"]
