"""An expert leaves: what stays is, to the byte, what would have been built without it."""

import pytest
import torch

from mdel_assets.errors import MergeError
from mdel_assets.merging.mixtures.leaving import leave_mixture
from mdel_assets_tests.merging.mixtures.folders import (
    NUM_LAYERS,
    SEEDS,
    WIDTH,
    experts_of,
    load,
    make_seed,
    mix,
)


def rows(count):
    draw = torch.Generator().manual_seed(5)
    return torch.randn(NUM_LAYERS, count, WIDTH, generator=draw)


def leave(folder, out, expert):
    out.mkdir()
    return leave_mixture(folder, out, expert=expert)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("family", SEEDS)
@pytest.mark.parametrize("left", [0, 2])
def test_what_stays_is_the_mixture_built_without_the_expert(make_model, tmp_path, family, left):
    seed = make_seed(make_model, family, dtype="bfloat16")
    experts, gates = experts_of(seed, tmp_path, 3, layers=[1, 2]), rows(4)
    mix(seed, experts, tmp_path / "with", gates=gates, general_expert=True)
    stay = [number for number in range(3) if number != left]
    without = tmp_path / "without"
    mix(
        seed,
        [experts[number] for number in stay],
        without,
        gates=gates[:, [*stay, 3]],
        general_expert=True,
    )
    leave(tmp_path / "with", tmp_path / "left", f"expert-{left}")
    assert content(tmp_path / "left") == content(without)
    load(tmp_path / "left")


def test_of_more_than_ten_experts_the_right_one_leaves(make_model, tmp_path):
    """Expert 1 is no prefix of expert 10."""
    seed = make_seed(make_model, "llama")
    experts, gates = experts_of(seed, tmp_path, 12), rows(12)
    mix(seed, experts, tmp_path / "with", gates=gates)
    stay = [number for number in range(12) if number != 1]
    mix(seed, [experts[n] for n in stay], tmp_path / "without", gates=gates[:, stay])
    leave(tmp_path / "with", tmp_path / "left", "expert-1")
    assert content(tmp_path / "left") == content(tmp_path / "without")


def test_the_general_expert_may_leave_too(make_model, tmp_path):
    seed = make_seed(make_model, "olmo2")
    experts, gates = experts_of(seed, tmp_path, 2), rows(3)
    mix(seed, experts, tmp_path / "with", gates=gates, general_expert=True)
    mix(seed, experts, tmp_path / "without", gates=gates[:, :2])
    leave(tmp_path / "with", tmp_path / "left", "seed")
    assert content(tmp_path / "left") == content(tmp_path / "without")


@pytest.mark.parametrize(
    ("options", "leaves", "message"),
    [
        ({}, "expert-7", "Unknown expert 'expert-7'"),
        ({"experts_per_token": 3}, "expert-0", "has 2 experts, and a token goes through 3"),
        ({"router": "trained"}, "expert-0", "trained with 'expert-0' in it"),
    ],
)
def test_who_cannot_leave_is_told_why(make_model, tmp_path, options, leaves, message):
    seed = make_seed(make_model, "qwen3")
    mix(seed, experts_of(seed, tmp_path, 3), tmp_path / "with", **options)
    with pytest.raises(MergeError, match=message):
        leave(tmp_path / "with", tmp_path / "left", leaves)
    assert list((tmp_path / "left").iterdir()) == []


def test_an_expert_that_left_traces_elsewhere_cannot_leave(make_model, tmp_path):
    """In means of shared tensors, or in layers that are mixtures for its sake."""
    seed = make_seed(make_model, "qwen3")
    experts = experts_of(seed, tmp_path, 3, moved=(".mlp.", "self_attn.o_proj"), layers=[1])
    mix(seed, experts, tmp_path / "means")
    with pytest.raises(MergeError, match="1 tensors of this mixture are means"):
        leave(tmp_path / "means", tmp_path / "left", "expert-0")
    for family, refuses in (("qwen3", True), ("llama", False)):
        seed = make_seed(make_model, family)
        parent = tmp_path / family
        wide = experts_of(seed, parent / "wide", 1)
        narrow = [parent / "wide" / "narrow-1", parent / "wide" / "narrow-2"]
        for folder, source in zip(
            narrow, experts_of(seed, parent / "narrow", 2, layers=[2]), strict=True
        ):
            source.rename(folder)
        mix(seed, [*wide, *narrow], parent / "with")
        if refuses:
            with pytest.raises(MergeError, match=r"Layers \[0, 1\] are mixtures because"):
                leave(parent / "with", parent / "left", "expert-0")
        else:
            mix(seed, narrow, parent / "without")
            leave(parent / "with", parent / "left", "expert-0")
            assert content(parent / "left") == content(parent / "without")
