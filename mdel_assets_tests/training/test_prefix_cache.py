"""States below the first trained layer: kept where that changes nothing, computed elsewhere."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mdel_assets.training.fused_loss import LanguageModelLoss
from mdel_assets.training.layers import layer_list_name
from mdel_assets.training.model_files import load_model
from mdel_assets.training.optimize import optimize
from mdel_assets.training.prefix_cache import PrefixCache, keep_prefix
from mdel_assets_tests.conftest import TRAINING
from mdel_assets_tests.families import FAMILIES

IDS = torch.arange(60).reshape(3, 20) * 7 % 320
# PhiMoE chooses experts at random in training, and OPT draws a number for every layer.
ALWAYS_RANDOM = {"opt", "phimoe"}


def with_one_trained_layer(folder, number=2):
    """Return the model in training mode, and the name of its layers."""
    model = load_model(folder).train()
    name = layer_list_name(model, num_layers=3)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith(f"{name}.{number}."))
    return model, name


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def kept(model, folder, num_blocks=5):
    return keep_prefix(model, first_trained=2, shape_NT=(num_blocks, 20), folder=folder)


@pytest.mark.in_use
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gpt_neox", *sorted(FAMILIES.keys() - ALWAYS_RANDOM)])
def test_kept_states_give_the_same_bits_and_run_no_frozen_layer(
    make_model, tmp_path, family, dtype
):
    model, name = with_one_trained_layer(make_model(family, **FAMILIES.get(family, {})))
    calls = []
    for part in [m for m in model.get_submodule(f"{name}.0").modules() if not list(m.children())]:
        part.register_forward_hook(lambda *_: calls.append(0))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = LanguageModelLoss(model)
        plain = loss(IDS)["loss"]
        plain.backward()
        expected = gradients(model)
        assert expected
        loss.prefix = kept(model, tmp_path)
        for blocks, is_run in (([4, 0, 2], True), ([4, 0, 2], False), ([1, 3, 2], True)):
            calls.clear()
            found = loss(IDS, torch.tensor(blocks))["loss"]
            found.backward()
            assert bool(calls) == is_run
            assert found.item() == plain.item()
            ours = gradients(model)
            assert ours.keys() == expected.keys()
            assert all(torch.equal(ours[n], expected[n]) for n in ours)


def test_another_process_finds_the_states_that_were_kept(make_model, tmp_path):
    model, _ = with_one_trained_layer(make_model())
    loss = LanguageModelLoss(model)
    plain = loss(IDS)["loss"].item()
    for blocks in ([4, 0, 2], [1, 3, 2]):
        loss.prefix = kept(model, tmp_path)
        assert loss(IDS, torch.tensor(blocks))["loss"].item() == plain
    again = LanguageModelLoss(model)
    again.prefix = kept(model, tmp_path)
    assert again(IDS, torch.tensor([0, 4, 2]))["loss"].item() != plain
    assert again(IDS, torch.tensor([4, 3, 2]))["loss"].item() == plain
    assert LanguageModelLoss(model)(IDS)["loss"].item() == plain


def test_states_that_a_machine_lost_when_it_stopped_are_computed_again(make_model, tmp_path):
    model, _ = with_one_trained_layer(make_model())
    loss = LanguageModelLoss(model)
    plain = loss(IDS)["loss"].item()
    loss.prefix = kept(model, tmp_path)
    blocks = torch.tensor([4, 0, 2])
    loss(IDS, blocks)
    # The digest of a block reached the disk, and its states did not.
    states = np.memmap(tmp_path / "prefix.float32", np.float32, mode="r+").reshape(5, -1)
    before = states[0].copy()
    states[0] = 0
    loss.prefix = kept(model, tmp_path)
    assert loss(IDS, blocks)["loss"].item() == plain
    assert np.array_equal(states[0], before)


class States:
    """Gives zeros for a whole pass, in which the states are ones, and else the states."""

    def whole(self, ids):
        return torch.zeros(*ids.shape, 8), torch.ones(*ids.shape, 8)

    def above(self, _ids, states):
        return states


def test_processes_that_begin_at_once_share_the_states_that_are_kept(tmp_path):
    start, states, blocks = threading.Barrier(4), torch.zeros(8), torch.arange(3)

    def begin(folder):
        start.wait(timeout=10)
        return PrefixCache(States(), like=states, shape_NT=(3, 20), folder=folder)

    with ThreadPoolExecutor(start.parties) as pool:
        for number in range(100):
            first, *others = pool.map(begin, [tmp_path / str(number)] * start.parties)
            assert not first.hidden(IDS, blocks).any()
            assert all(other.hidden(IDS, blocks).all() for other in others)


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {}),
        ("gpt_neox", {"attention_dropout": 0.1}),
        ("opt", {"dropout": 0.1}),
        ("opt", {"layerdrop": 0.3}),
        ("biogpt", {}),
        ("phimoe", {}),
        ("starcoder2", {"residual_dropout": 0.1, "num_key_value_heads": 2}),
        ("starcoder2", {"embedding_dropout": 0.1, "num_key_value_heads": 2}),
        ("mixtral", {"router_jitter_noise": 0.1}),
    ],
)
def test_no_states_are_kept_where_frozen_layers_are_random(make_model, tmp_path, family, changes):
    model, _ = with_one_trained_layer(make_model(family, **FAMILIES.get(family, {}) | changes))
    model.eval()
    before = torch.get_rng_state()
    assert kept(model, tmp_path) is None
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training


def test_states_are_kept_where_only_trained_layers_are_random(make_model, tmp_path):
    model, name = with_one_trained_layer(make_model())
    model.get_submodule(f"{name}.2").post_mlp_dropout.p = 0.3
    assert kept(model, tmp_path) is not None


class ReadsTheFirstLayerLater(torch.nn.Module):
    """A layer that wants, besides the states, what the first one gave."""

    def __init__(self, own, seen):
        super().__init__()
        self.own, self.seen = own, seen

    def forward(self, hidden, *arguments, **options):
        return self.own(hidden + 0.1 * self.seen.pop(), *arguments, **options)


def test_no_states_are_kept_where_upper_layers_read_past_them(make_model, tmp_path):
    model, name = with_one_trained_layer(make_model())
    layers, seen = model.get_submodule(name), []
    layers[0].mlp.register_forward_hook(lambda _module, _inputs, given: seen.append(given))
    layers[2] = ReadsTheFirstLayerLater(layers[2], seen)
    assert kept(model, tmp_path) is None


@pytest.mark.in_use
@pytest.mark.parametrize(
    ("family", "changes", "is_kept"),
    [("gpt_neo", {}, True), ("biogpt", {"hidden_dropout_prob": 0.2}, False)],
)
def test_training_with_kept_states_ends_in_the_same_weights(
    make_model, tmp_path, family, changes, is_kept
):
    """Batches of one block, so that no product depends on how blocks are batched."""
    folder = make_model(family, **FAMILIES.get(family, {}) | changes)
    blocks = np.random.default_rng(0).integers(0, 320, (3, 32)).astype(np.int32)
    ended = []
    for name in ("kept", "computed"):
        model, _ = with_one_trained_layer(folder)
        settings = TRAINING.model_copy(
            update={"cache_prefix": name == "kept", "batch_size": 1, "num_tokens": 3 * blocks.size}
        )
        trained = optimize(model, blocks, settings, work_folder=tmp_path / name, first_trained=2)
        ended.append(trained.tensors)
    assert (tmp_path / "kept" / "prefix.float32").exists() == is_kept
    assert not (tmp_path / "computed" / "prefix.float32").exists()
    for name, tensor in ended[0].items():
        assert torch.equal(tensor, ended[1][name]), name
