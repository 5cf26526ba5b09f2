"""What must hold for every merge method, whatever the tensors: tried on many, drawn at random."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdel_assets.errors import MergeError
from mdel_assets.merge_methods import METHODS
from mdel_assets.merging.in_memory import merge_tensors
from mdel_assets_tests.merging.folders import merge, merged_tensors, recipe_of, save_folder

# What each method is asked for here, and whether it starts from a base.
OPTIONS = {
    "linear": {},
    "task_arithmetic": {"weight": 0.4},
    "slerp": {"t": 0.3},
    "nuslerp": {"weight": 0.5},
    "multislerp": {"weight": 0.5},
    "karcher": {},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.6},
    "dare_ties": {"density": 0.6},
    "della": {"density": 0.5, "epsilon": 0.2},
    "breadcrumbs": {"density": 0.6, "gamma": 0.1},
    "model_stock": {},
    "sce": {"select_topk": 0.5},
    "nearswap": {"t": 0.01},
    "passthrough": {"scale": 0.7},
}
ROWS = {"nuslerp": {"nuslerp_flatten": False}, "model_stock": {"filter_wise": True}}
# Random methods draw by a model's name, and slerp and nearswap tell their models apart.
SYMMETRIC = ["linear", "task_arithmetic", "karcher", "ties", "breadcrumbs", "model_stock", "sce"]
WEIGHTED = [name for name, method in METHODS.items() if "weight" in method.parameters]

SEEDS = st.integers(0, 2**32)
FAST = settings(max_examples=20, deadline=None, database=None, derandomize=True)


def drawn(seed, shape=(4, 6), count=4):
    """Return tensors as large as weights are, with zeros and repeats among their numbers."""
    draw = np.random.default_rng(seed)
    return [
        torch.from_numpy((np.round(draw.normal(0, 8, shape)) / 400).astype("f4"))
        for _ in range(count)
    ]


def group(method, tensors):
    """Return (models, base) of five tensors, as many as the method takes."""
    row = METHODS[method]
    models = tensors[1 : 1 + min(3, row.max_models or 3)]
    return models, tensors[0] if row.base == "required" else None


def test_every_method_is_tried():
    assert set(OPTIONS) == set(METHODS)


@FAST
@given(seed=SEEDS)
@pytest.mark.parametrize("method", SYMMETRIC)
def test_symmetric_methods_ignore_order(method, seed):
    models, base = group(method, drawn(seed))
    # Variances at SCE's threshold may change places by their rounding: all are selected here.
    options = OPTIONS[method] | ({"select_topk": 1.0} if method == "sce" else {})
    forth = merge_tensors(method, models, base=base, **options)
    back = merge_tensors(method, models[::-1], base=base, **options)
    # One unit in the last place of the largest number on the way there.
    largest = max(1.0, 4 * float(forth.abs().max())) if method == "karcher" else 1.0
    if method in ("ties", "sce"):
        # A sum that is zero but for rounding may elect either sign.
        total = sum((tensor - base).double() for tensor in models)
        forth, back = forth[total.abs() > 1e-6], back[total.abs() > 1e-6]
    torch.testing.assert_close(forth, back, rtol=0, atol=largest * 2.0**-23)


@FAST
@given(seed=SEEDS)
@pytest.mark.parametrize("method", WEIGHTED)
def test_a_model_of_weight_zero_changes_nothing(method, seed):
    models, base = group(method, drawn(seed))
    if METHODS[method].max_models:
        # Of two models, one of weight zero: the other alone.
        merged = merge_tensors(method, models, base=base, weight=[1.0, 0.0])
        torch.testing.assert_close(merged, models[0], rtol=0, atol=1e-7)
        return
    options = OPTIONS[method]
    without = merge_tensors(method, models[:2], base=base, **options | {"weight": [0.3, 0.5]})
    weight = {"weight": [0.3, 0.5, 0.0]}
    merged = merge_tensors(method, models, base=base, **options | weight)
    torch.testing.assert_close(merged, without, rtol=0, atol=1e-6)


@FAST
@given(seed=SEEDS, piece=st.sampled_from([50, 333, 1024]))
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("method", list(METHODS))
def test_pieces_do_not_change_bytes(method, rows, seed, piece):
    models, base = group(method, drawn(seed, shape=(37, 61)))
    options = OPTIONS[method] | (ROWS.get(method, {}) if rows else {})
    whole = merge_tensors(method, models, base=base, **options)
    cut = merge_tensors(method, models, base=base, piece_elements=piece, **options)
    assert torch.equal(whole, cut)


def digest_of(tmp_path, out):
    return {
        name: hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in merged_tensors(tmp_path, out).items()
    }


def parameters_of(method):
    return {"parameters": OPTIONS[method]}


@pytest.mark.parametrize("method", list(METHODS))
def test_threads_pieces_and_shards_do_not_change_bytes(tmp_path, method):
    torch.manual_seed(0)
    shapes = {f"layers.{n}.w": (64, 61 + n) for n in range(6)} | {"norm": (97,), "big": (600, 999)}
    tensors = [{k: (torch.randn(s) * 0.02).half() for k, s in shapes.items()} for _ in range(4)]
    folders = [save_folder(tmp_path / str(n), own) for n, own in enumerate(tensors)]
    models, base = group(method, folders)
    found = []
    for number, (threads, piece, shard) in enumerate(
        [(1, 1 << 20, None), (2, 1024, None), (3, 5000, 1), (2, 3001, None)]
    ):
        extra = {"mdel": {"max_shard_mib": shard}} if shard else {}
        recipe = recipe_of(method, **parameters_of(method), **extra)
        out = f"out-{number}"
        options = {"num_threads": threads, "largest_piece": piece}
        merge(tmp_path, recipe, *models, base=base, out=out, **options)
        found.append(digest_of(tmp_path, out))
    assert found[1:] == found[:1] * 3


@pytest.mark.parametrize("method", [name for name in METHODS if name != "passthrough"])
@settings(FAST, max_examples=4)
@given(seed=SEEDS)
def test_frozen_tensors_stay_the_seeds_to_the_bit(method, seed):
    draw = np.random.default_rng(seed)
    frozen = torch.from_numpy(draw.normal(0, 0.02, (7, 9)).astype("f4"))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        folders = [
            save_folder(
                path / str(number),
                {
                    "layers.0.w": frozen.clone(),
                    "layers.1.w": torch.from_numpy(draw.normal(0, 0.02, (7, 9)).astype("f4")),
                },
            )
            for number in range(4)
        ]
        models, base = group(method, folders)
        result = merge(path, recipe_of(method, **parameters_of(method)), *models, base=base)
        assert result.num_copied_tensors == 1
        assert torch.equal(merged_tensors(path)["layers.0.w"], frozen)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("in_base", [False, True])
def test_a_nan_or_infinity_is_refused_and_its_tensor_named(tmp_path, method, bad, in_base):
    torch.manual_seed(0)
    tensors = [{"good": torch.randn(3, 4), "w": torch.randn(3, 4)} for _ in range(4)]
    tensors[0 if in_base else 1]["w"][1, 2] = bad
    folders = [save_folder(tmp_path / str(number), own) for number, own in enumerate(tensors)]
    models, base = group(method, folders)
    if in_base and base is None:
        return
    with pytest.raises(MergeError, match="holds a NaN or infinity in w"):
        merge(tmp_path, recipe_of(method, **parameters_of(method)), *models, base=base)
