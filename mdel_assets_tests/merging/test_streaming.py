"""Linear merges: arithmetic by hand, models that do not fit refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.errors import MergeError
from mdel_assets.merging import streaming
from mdel_assets.merging.linear import linear
from mdel_assets.merging.streaming import MergeInput, merge_linear, non_finite_tensors
from mdel_assets.tensor_files import TensorFolder

ONE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
TWO = torch.tensor([[5.0, 6.0], [7.0, 12.0]])


def test_linear_is_the_weighted_mean():
    mean = linear([ONE, TWO], weights=[1.0, 1.0], normalize=True)
    assert mean.tolist() == [[3.0, 4.0], [5.0, 8.0]]
    weighted = linear([ONE, TWO], weights=[3.0, 1.0], normalize=True)
    assert weighted.tolist() == [[2.0, 3.0], [4.0, 6.0]]
    summed = linear([ONE, TWO], weights=[2.0, -1.0], normalize=False)
    assert summed.tolist() == [[-3.0, -2.0], [-1.0, -4.0]]


def test_halves_are_added_in_fp32():
    """In fp16, 2048 + 1 is 2048; in fp32 it is not, and half of it is 1024.5."""
    halves = [torch.tensor([2048.0], dtype=torch.float16), torch.tensor([1.0], dtype=torch.float16)]
    assert linear(halves, weights=[1.0, 1.0], normalize=True).item() == 1024.5


def folder(path, tensors):
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    return path


def merge(tmp_path, *models, **options):
    inputs = [MergeInput(f"model-{i}", path, weight) for i, (path, weight) in enumerate(models)]
    (tmp_path / "out").mkdir(exist_ok=True)
    base = options.pop("base_folder", models[0][0])
    return merge_linear(inputs, tmp_path / "out", base_folder=base, **options)


@pytest.mark.parametrize("slice_elements", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_are_merged_tensor_by_tensor(tmp_path, monkeypatch, slice_elements, dtype):
    monkeypatch.setattr(streaming, "_SLICE_ELEMENTS", slice_elements)
    first = {"w": ONE.to(dtype), "b": torch.tensor(1.0, dtype=dtype), "e": torch.empty(0, 2)}
    second = {"w": TWO.to(dtype), "b": torch.tensor(3.0, dtype=dtype), "e": torch.empty(0, 2)}
    models = (folder(tmp_path / "a", first), 1.0), (folder(tmp_path / "b", second), 1.0)
    result = merge(tmp_path, *models)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged["w"].tolist() == [[3.0, 4.0], [5.0, 8.0]]
    assert merged["b"].item() == 2.0
    assert merged["e"].shape == (0, 2)
    assert {merged["w"].dtype, merged["b"].dtype} == {dtype}
    assert (result.num_tensors, result.num_parameters, result.non_finite) == (3, 5, [])


def test_an_output_dtype_can_be_asked_for(tmp_path):
    first, second = folder(tmp_path / "a", {"w": ONE}), folder(tmp_path / "b", {"w": TWO})
    merge(tmp_path, (first, 1.0), (second, 1.0), dtype="bfloat16")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_both_names_of_gpt_neoxs_output_layer_are_one_tensor(tmp_path):
    first = folder(tmp_path / "a", {"embed_out.weight": ONE})
    second = folder(tmp_path / "b", {"lm_head.weight": TWO})
    merge(tmp_path, (first, 1.0), (second, 1.0))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: t.tolist() for name, t in merged.items()} == {
        "embed_out.weight": [[3.0, 4.0], [5.0, 8.0]]
    }


def test_every_difference_between_the_models_is_named(tmp_path):
    first = folder(tmp_path / "a", {"w": ONE, "only_first": ONE.clone()})
    second = folder(tmp_path / "b", {"w": TWO[:1].clone(), "only_second": TWO})
    with pytest.raises(MergeError) as refused:
        merge(tmp_path, (first, 1.0), (second, 1.0))
    for difference in (
        "model-1 lacks only_first",
        "model-0 lacks only_second",
        "w is [2, 2] in model-0, [1, 2] in model-1",
    ):
        assert difference in str(refused.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_nan_in_an_input_is_refused_by_the_name_of_its_tensor(tmp_path):
    bad = TWO.clone()
    bad[1, 0] = float("nan")
    first, second = folder(tmp_path / "a", {"w": ONE}), folder(tmp_path / "b", {"w": bad})
    with pytest.raises(MergeError, match="model-1 holds a NaN or infinity in w"):
        merge(tmp_path, (first, 1.0), (second, 1.0))
    assert non_finite_tensors(second) == ["w"]


def test_weights_that_cancel_are_refused(tmp_path):
    first, second = folder(tmp_path / "a", {"w": ONE}), folder(tmp_path / "b", {"w": TWO})
    with pytest.raises(MergeError, match="sum to zero"):
        merge(tmp_path, (first, 1.0), (second, -1.0))
    merge(tmp_path, (first, 1.0), (second, -1.0), normalize=False)
    merged = load_file(tmp_path / "out" / "model.safetensors")["w"]
    assert merged.tolist() == [[-4.0, -4.0], [-4.0, -8.0]]


def test_another_tokenizer_is_refused(tmp_path):
    first, second = folder(tmp_path / "a", {"w": ONE}), folder(tmp_path / "b", {"w": TWO})
    (second / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0}}}))
    with pytest.raises(MergeError, match="model-1 has another tokenizer"):
        merge(tmp_path, (first, 1.0), (second, 1.0))


def test_pickles_and_paths_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "pickle").mkdir()
    torch.save({"w": ONE}, tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(MergeError, match="Pickle checkpoints are not read"):
        TensorFolder(tmp_path / "pickle")
    good = folder(tmp_path / "good", {"w": ONE})
    (tmp_path / "escape").mkdir()
    (tmp_path / "escape" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "../good/model.safetensors"}})
    )
    with pytest.raises(MergeError, match="not a file of this folder"):
        TensorFolder(tmp_path / "escape")
    assert good.is_dir()


def test_a_sharded_model_is_read_as_one(tmp_path):
    path = folder(tmp_path / "a", {"w": ONE})
    shutil.move(path / "model.safetensors", path / "part-1.safetensors")
    save_file({"b": TWO}, path / "part-2.safetensors")
    names = {"w": "part-1.safetensors", "b": "part-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with TensorFolder(path) as tensors:
        assert tensors.read("b").tolist() == TWO.tolist()
        assert tensors.read_rows("w", 1, 2).tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("family", ["gpt_neox", "llama"])
def test_a_merged_model_loads_and_holds_the_mean(make_model, tmp_path, family):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [make_model(family, seed=seed) for seed in (1, 2)]
    merge(tmp_path, *((path, 1.0) for path in models))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    first, second = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in models)
    for name, value in merged.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=0, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("proof")["input_ids"]
