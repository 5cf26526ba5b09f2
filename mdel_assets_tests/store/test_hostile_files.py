"""Model files that somebody made to break a reader: each is refused in a sentence of ours."""

import json
import os
import shutil
import struct

import pytest
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mdel_assets.errors import MergeError, TrainingError
from mdel_assets.store.tensor_files import INDEX_NAME, TensorFolder, weight_files
from mdel_assets.training.model_files import load_model
from mdel_assets_tests.merging.folders import ONE, TWO, save_folder

pytestmark = pytest.mark.in_use
DATA = bytes(16)
GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def entry(**changes):
    return json.dumps({"w": {**GOOD, **changes}})


def without(key):
    return json.dumps({"w": {name: value for name, value in GOOD.items() if name != key}})


def two(first, second):
    halves = {"dtype": "F32", "shape": [2]}
    return json.dumps(
        {"a": halves | {"data_offsets": first}, "b": halves | {"data_offsets": second}}
    )


# What is in the header, and words of the refusal.
HEADERS = {
    "a list": ("[]", "is not a table of tensors"),
    "a word": ('"w"', "is not a table of tensors"),
    "null": ("null", "is not a table of tensors"),
    "half a table": ('{"w"', "is not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "another encoding": ("ÿ".encode("latin-1"), "is not JSON"),
    "a tensor twice": (f'{{"w": {json.dumps(GOOD)}, "w": {json.dumps(GOOD)}}}', "names 'w' twice"),
    "a key twice": (entry()[:-2] + ', "dtype": "I32"}}', "names 'dtype' twice"),
    "a tensor of null": ('{"w": null}', "'w' lacks its dtype"),
    "a tensor of a list": ('{"w": [1, 2, 3]}', "'w' lacks its dtype"),
    "no dtype": (without("dtype"), "'w' lacks its dtype"),
    "no shape": (without("shape"), "'w' lacks its dtype"),
    "no offsets": (without("data_offsets"), "'w' lacks its dtype"),
    "an unknown dtype": (entry(dtype="F7"), "unknown dtype F7"),
    "a dtype of a list": (entry(dtype=["F32"]), "unknown dtype"),
    "a shape of null": (entry(shape=None), "has the shape None"),
    "a negative shape": (entry(shape=[-2, -2]), r"has the shape \[-2, -2\]"),
    "a broken shape": (entry(shape=[2.0, 2.0]), r"has the shape \[2.0, 2.0\]"),
    "a shape of truth": (entry(shape=[True, 4]), r"has the shape \[True, 4\]"),
    "a shape too large": (entry(shape=[2**40, 2**40]), "does not fit into 16 bytes"),
    "a shape that hides": (entry(shape=[0, 2**70], data_offsets=[0, 0]), "does not fit into 0"),
    "a shape of digits": ('{"w": {"shape": [' + "9" * 5000 + "]}}", "is not JSON"),
    "a shape without end": (entry(shape=[-1] * 100_000), "has the shape"),
    "three offsets": (entry(data_offsets=[0, 8, 16]), "two offsets"),
    "offsets of words": (entry(data_offsets=["0", "16"]), "the offsets 0 and 16"),
    "negative offsets": (entry(data_offsets=[-16, 0]), "the offsets -16 and 0"),
    "offsets backwards": (entry(data_offsets=[16, 0]), "does not fit into -16 bytes"),
    "offsets beyond the end": (entry(data_offsets=[16, 32]), "begins at byte 16 of the data"),
    "overlapping tensors": (two([0, 8], [4, 12]), "'b' begins at byte 4 of the data, expected 8"),
    "a gap": (two([0, 8], [9, 17]), "'b' begins at byte 9 of the data, expected 8"),
    "bytes of nobody": (entry(shape=[2], data_offsets=[0, 8]), "its tensors end at byte"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_as_the_library_refuses_it(tmp_path, name):
    header, words = HEADERS[name]
    text = header if isinstance(header, bytes) else header.encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + DATA)
    with pytest.raises(MergeError, match=words) as raised:
        TensorFolder(tmp_path)
    assert str(raised.value).startswith(f"{path} is not a whole safetensors file: ")
    assert len(str(raised.value)) < 1000
    # The library takes the last of two entries with the same name.
    if not name.endswith("twice"):
        with pytest.raises(SafetensorError), safe_open(path, "pt"):
            pass


@pytest.mark.parametrize("length", [0, 1, 17, 2**40, 2**63, 2**64 - 1])
def test_a_wrong_length_of_the_header_is_refused(tmp_path, length):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + DATA)
    with pytest.raises(MergeError, match="is not a whole safetensors file"):
        TensorFolder(tmp_path)


def test_a_header_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**30))
    os.truncate(path, 2**30 + 8)
    with pytest.raises(MergeError, match="has 1073741824 bytes, at most 100000000 are read"):
        TensorFolder(tmp_path)


@pytest.mark.parametrize("name", ["a list", "negative offsets", "a dtype of a list"])
def test_a_seed_or_scored_model_with_a_hostile_file_is_refused_alike(make_model, tmp_path, name):
    folder = shutil.copytree(make_model(), tmp_path / "model")
    text = HEADERS[name][0].encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + DATA)
    with pytest.raises(TrainingError) as raised:
        load_model(folder)
    assert str(raised.value).startswith(f"{path} is not a whole safetensors file: ")


INDICES = {
    "no JSON": ("{", "is not JSON"),
    "another encoding": ("ÿ".encode("latin-1"), "is not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "a tensor twice": ('{"weight_map": {"w": "a", "w": "b"}}', "names 'w' twice"),
    "a list": ("[]", "has no 'weight_map'"),
    "no map": ("{}", "has no 'weight_map'"),
    "a map of a list": ('{"weight_map": ["w"]}', "has no 'weight_map'"),
    "a file of a number": ('{"weight_map": {"w": 3}}', "has no 'weight_map'"),
    "a file of nothing": ('{"weight_map": {"w": ""}}', "names '', which is not a file"),
    "a file with an end in its name": (
        '{"weight_map": {"w": "a\\u0000b"}}',
        "which is not a file of this folder",
    ),
    "the folder": ('{"weight_map": {"w": "."}}', "which is not a file of this folder"),
    "another tensor": ('{"weight_map": {"v": "part"}}', "lacks 'v', which the index says"),
}


@pytest.mark.parametrize("name", INDICES)
def test_a_hostile_index_is_refused(tmp_path, name):
    content, words = INDICES[name]
    save_file({"w": ONE}, tmp_path / "part")
    text = content if isinstance(content, bytes) else content.encode()
    (tmp_path / INDEX_NAME).write_bytes(text)
    with pytest.raises(MergeError, match=words) as raised:
        TensorFolder(tmp_path)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("has_index", [False, True])
def test_a_link_out_of_the_folder_is_refused(tmp_path, has_index):
    other = save_folder(tmp_path / "other", {"w": ONE})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(other / "model.safetensors")
    if has_index:
        content = {"weight_map": {"w": "model.safetensors"}}
        (tmp_path / "model" / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(MergeError, match=r"links to .*other.*, outside its folder"):
        TensorFolder(tmp_path / "model")


def test_links_as_they_are_used_are_read(tmp_path):
    """A folder that is a link, a link inside, a hard link, and the cache of the Hub's client."""
    good = save_folder(tmp_path / "good", {"w": TWO})
    (tmp_path / "linked").symlink_to(good)
    inside = save_folder(tmp_path / "inside", {"w": TWO})
    (inside / "model.safetensors").rename(inside / "part")
    (inside / "model.safetensors").symlink_to("part")
    (tmp_path / "hard").mkdir()
    os.link(good / "model.safetensors", tmp_path / "hard" / "model.safetensors")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    os.link(good / "model.safetensors", tmp_path / "models--a--b" / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    for folder in (tmp_path / "linked", inside, tmp_path / "hard", snapshot):
        assert weight_files(folder) == [folder / "model.safetensors"]
        with TensorFolder(folder) as tensors:
            assert tensors.read("w").tolist() == TWO.tolist()
