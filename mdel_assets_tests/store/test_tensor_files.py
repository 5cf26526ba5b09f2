"""Safetensors are read piece by piece, and everything else is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.errors import MergeError
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.store.tensor_writer import TensorLayout, TensorWriter
from mdel_assets_tests.merging.folders import ONE, TWO, save_folder


def test_pickles_and_paths_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "pickle").mkdir()
    torch.save({"w": ONE}, tmp_path / "pickle" / "pytorch_model.bin")
    with pytest.raises(MergeError, match="Pickle checkpoints are not read"):
        TensorFolder(tmp_path / "pickle")
    good = save_folder(tmp_path / "good", {"w": ONE})
    (tmp_path / "escape").mkdir()
    (tmp_path / "escape" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"w": "../good/model.safetensors"}})
    )
    with pytest.raises(MergeError, match="not a file of this folder"):
        TensorFolder(tmp_path / "escape")
    assert good.is_dir()


def test_a_sharded_model_is_read_as_one(tmp_path):
    path = save_folder(tmp_path / "a", {"w": ONE})
    shutil.move(path / "model.safetensors", path / "part-1.safetensors")
    save_file({"b": TWO}, path / "part-2.safetensors")
    names = {"w": "part-1.safetensors", "b": "part-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with TensorFolder(path) as tensors:
        assert tensors.read("b").tolist() == TWO.tolist()
        assert tensors.read_flat("w", 1, 3).tolist() == [2.0, 3.0]


def test_every_dtype_is_read_as_the_library_reads_it(tmp_path):
    numbers = {"bool": torch.tensor([True, False])}
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int8", "uint8", "uint16"):
        numbers[name] = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    numbers["float8_e4m3fn"] = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    path = save_folder(tmp_path / "a", numbers)
    expected = load_file(path / "model.safetensors")
    with TensorFolder(path) as tensors:
        for name, tensor in expected.items():
            found = tensors.read(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert found.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()


@pytest.mark.parametrize("size", [0, 5, 20, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, size):
    path = save_folder(tmp_path / "a", {"w": ONE}) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MergeError, match="is not a whole safetensors file"):
        TensorFolder(tmp_path / "a")


def test_a_tensor_not_written_whole_is_an_error(tmp_path):
    layouts = [TensorLayout("w", (2, 2), "F32"), TensorLayout("v", (1,), "F16")]
    with (
        pytest.raises(MergeError, match="tensors are incomplete: w"),
        TensorWriter(tmp_path, layouts) as writer,
    ):
        writer.write("w", memoryview(bytes(12)), offset=0)
        writer.write("v", memoryview(bytes(2)), offset=0)


def test_tensors_lie_as_the_library_lays_them(tmp_path):
    """Wide dtypes first, then by name: byte for byte what safetensors writes."""
    tensors = {"b": ONE, "a": torch.ones(3, dtype=torch.int8), "c": TWO.half(), "d": TWO}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.int8: "I8"}
    layouts = [TensorLayout(n, tuple(t.shape), dtypes[t.dtype]) for n, t in tensors.items()]
    with TensorWriter(tmp_path, layouts) as writer:
        for name, tensor in tensors.items():
            writer.write(name, memoryview(tensor.numpy().tobytes()), offset=0)
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
