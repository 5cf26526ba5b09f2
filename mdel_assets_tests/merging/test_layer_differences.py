"""How far experts moved: worked out by hand, and against the plain formulas in fp64."""

import math

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.merging.layer_differences import curves_by_part, measure_differences
from mdel_assets.merging.sources import MergeInput
from mdel_assets_tests.merging.folders import save_folder

SEED = {
    "h.0.w": torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
    "h.1.w": torch.tensor([[1.0, 2.0], [2.0, 4.0]]),
    "h.1.b": torch.zeros(2),
    "wte.weight": torch.ones(2, 2),
}


@pytest.fixture
def measured(tmp_path):
    """Two experts that trained layer 1; the second changed the embedding besides."""
    first = SEED | {
        "h.1.w": SEED["h.1.w"] + torch.tensor([[3.0, -4.0], [0.0, 0.0]]),
        "h.1.b": torch.tensor([0.0, -2.0]),
    }
    second = SEED | {
        "h.1.w": SEED["h.1.w"] + torch.tensor([[0.0, -1.0], [0.0, 1.0]]),
        "wte.weight": torch.tensor([[1.0, 1.0], [1.0, 1.5]]),
    }
    inputs = [
        MergeInput(name, save_folder(tmp_path / name, tensors), {}, ("h.1.",))
        for name, tensors in (("first", first), ("second", second))
    ]
    seed = MergeInput("seed", save_folder(tmp_path / "seed", SEED))
    folders = {name: tmp_path / f"{name}-differences" for name in ("first", "second")}
    for folder in folders.values():
        folder.mkdir()
    return measure_differences(inputs, folders, seed=seed), folders


def rows_of(folder, name):
    return {row["tensor"]: row for row in pq.read_table(folder / name).to_pylist()}


def test_changes_are_those_worked_out_by_hand(measured):
    results, folders = measured
    rows = rows_of(folders["first"], "differences.parquet")
    assert set(rows) == set(SEED)
    row = rows["h.1.w"]
    assert (row["layer"], row["part"], row["num_elements"]) == (1, "w", 4)
    # The task vector 3 -4 has length 5 and the seed's tensor too.
    assert (row["relative_l2"], row["l1"], row["largest_change"]) == (1.0, 7.0, 4.0)
    assert (row["is_equal"], row["is_frozen"]) == (False, False)
    bias = rows["h.1.b"]
    # The seed's bias is zero: a relative change is not defined.
    assert (bias["relative_l2"], bias["l1"], bias["largest_change"]) == (None, 2.0, 2.0)
    still = rows["h.0.w"]
    assert (still["relative_l2"], still["l1"], still["largest_change"]) == (0.0, 0.0, 0.0)
    assert (still["is_equal"], still["is_frozen"]) == (True, True)
    assert (rows["wte.weight"]["layer"], rows["wte.weight"]["part"]) == (None, "wte.weight")
    result = results["first"]
    assert (result.num_tensors, result.num_changed_tensors) == (4, 2)
    # Squares: 25 + 4 moved, of 25 + 25 + 0 + 4.
    assert result.relative_l2 == pytest.approx(math.sqrt(29 / 54), rel=1e-12)


def test_cosines_are_between_task_vectors_that_moved(measured):
    results, folders = measured
    (row,) = pq.read_table(folders["first"] / "cosines.parquet").to_pylist()
    assert (row["tensor"], row["other"]) == ("h.1.w", "second")
    assert row["cosine"] == pytest.approx(4 / (5 * math.sqrt(2)), rel=1e-12)
    # All tensors together: 4 over the root of 29 and of 2 + 0.25.
    whole = 4 / math.sqrt(29 * 2.25)
    assert results["first"].mean_cosines == {"second": pytest.approx(whole, rel=1e-12)}
    assert results["second"].mean_cosines == {"first": pytest.approx(whole, rel=1e-12)}


def test_a_tensor_that_changed_though_frozen_is_named(measured):
    results, _ = measured
    assert results["first"].changed_though_frozen == []
    assert results["second"].changed_though_frozen == ["wte.weight"]


def test_the_chart_shows_matrices_by_layer(measured):
    _, folders = measured
    assert curves_by_part(folders["first"]) == {"w": [(0.0, 0.0), (1.0, 1.0)], "b": []}


def test_large_tensors_agree_with_plain_formulas(tmp_path):
    torch.manual_seed(0)
    shape = (1500, 1003)
    seed = {"h.0.w": torch.randn(shape).half()}
    experts = [{"h.0.w": (seed["h.0.w"] + 0.1 * torch.randn(shape)).half()} for _ in range(3)]
    inputs = [
        MergeInput(str(n), save_folder(tmp_path / str(n), own), {}, ("h.0.",))
        for n, own in enumerate(experts)
    ]
    (tmp_path / "out").mkdir()
    base = MergeInput("seed", save_folder(tmp_path / "seed", seed))
    measure_differences(inputs, {"0": tmp_path / "out"}, seed=base)
    deltas = [e["h.0.w"].double() - seed["h.0.w"].double() for e in experts]
    row = rows_of(tmp_path / "out", "differences.parquet")["h.0.w"]
    expected = float(deltas[0].norm() / seed["h.0.w"].double().norm())
    assert row["relative_l2"] == pytest.approx(expected, rel=1e-6)
    assert row["l1"] == pytest.approx(float(deltas[0].abs().sum()), rel=1e-6)
    assert row["largest_change"] == pytest.approx(float(deltas[0].abs().max()), rel=1e-6)
    for cosine in pq.read_table(tmp_path / "out" / "cosines.parquet").to_pylist():
        other = deltas[int(cosine["other"])]
        expected = float((deltas[0] * other).sum() / deltas[0].norm() / other.norm())
        assert cosine["cosine"] == pytest.approx(expected, abs=1e-6)


def test_bytes_that_differ_in_the_sign_of_zero_are_not_equal(tmp_path):
    seed = save_folder(tmp_path / "seed", SEED)
    expert = save_folder(tmp_path / "expert", SEED)
    tensors = load_file(expert / "model.safetensors")
    tensors["h.0.w"][0, 1] = -0.0
    save_file(tensors, expert / "model.safetensors")
    (tmp_path / "out").mkdir()
    found = measure_differences(
        [MergeInput("e", expert, {}, ("h.1.",))],
        {"e": tmp_path / "out"},
        seed=MergeInput("seed", seed),
    )
    assert found["e"].changed_though_frozen == ["h.0.w"]
