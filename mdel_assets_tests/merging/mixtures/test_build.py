"""Mixtures as transformers loads them: what they compute, what they hold, what is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from mdel_assets.errors import MergeError
from mdel_assets.merging.mixtures.active_weights import count_active
from mdel_assets.merging.mixtures.build import Mixing, build_mixture
from mdel_assets.merging.mixtures.contents import MixtureContents
from mdel_assets.merging.sources import MergeInput
from mdel_assets.training.trained_model import save_trained
from mdel_assets_tests.merging.mixtures.folders import (
    NUM_LAYERS,
    SEEDS,
    WIDTH,
    expert_of,
    experts_of,
    inputs_of,
    load,
    logits_of,
    make_seed,
    mix,
)


def random_gates(num_experts, *, scale=3.0):
    draw = torch.Generator().manual_seed(7)
    return scale * torch.randn(NUM_LAYERS, num_experts, WIDTH, generator=draw)


def mean_of_feed_forwards(seed, experts):
    """Return the seed with layers that compute every expert's feed-forward and take their mean."""
    model, others = load(seed), [load(folder) for folder in experts]
    for number, layer in enumerate(model.model.layers):
        blocks = [other.model.layers[number].mlp for other in others]
        layer.mlp.forward = lambda x, blocks=blocks: sum(b(x) for b in blocks) / len(blocks)
    return model


@pytest.mark.parametrize("family", SEEDS)
def test_gates_of_zeros_and_all_experts_give_the_mean_of_the_feed_forwards(
    make_model, tmp_path, family
):
    seed = make_seed(make_model, family)
    experts = experts_of(seed, tmp_path, 3)
    mix(seed, experts, tmp_path / "mixture", experts_per_token=3)
    mixture = load(tmp_path / "mixture")
    assert mixture.config.model_type == SEEDS[family][0]
    content = json.loads((tmp_path / "mixture" / "config.json").read_text())
    assert content["architectures"] == [type(mixture).__name__]
    # The name that the family's first configurations have.
    assert content["num_local_experts" if family in ("llama", "mistral") else "num_experts"] == 3
    expected = logits_of(mean_of_feed_forwards(seed, experts))
    torch.testing.assert_close(logits_of(mixture), expected, rtol=0, atol=1e-5)
    assert (expected - logits_of(load(seed))).abs().max() > 0.1


@pytest.mark.parametrize("family", SEEDS)
@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_copies_of_one_expert_give_that_expert_whatever_the_gates(
    make_model, tmp_path, family, experts_per_token
):
    seed = make_seed(make_model, family)
    expert = expert_of(seed, tmp_path, "expert", number=1)
    gates = random_gates(4)
    mix(seed, [expert] * 4, tmp_path / "mixture", gates=gates, experts_per_token=experts_per_token)
    expected = logits_of(load(expert))
    torch.testing.assert_close(logits_of(load(tmp_path / "mixture")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", SEEDS)
def test_a_token_goes_through_the_experts_whose_rows_it_is_likest_by_their_weights(
    make_model, tmp_path, family
):
    """Written out for one layer: softmax over all, the best two, their weights summing to 1."""
    seed = make_seed(make_model, family)
    experts = experts_of(seed, tmp_path, 4)
    gates = random_gates(4)
    mix(seed, experts, tmp_path / "mixture", gates=gates)
    block = load(tmp_path / "mixture").model.layers[1].mlp
    states = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        outputs = [load(folder).model.layers[1].mlp(states[0]) for folder in experts]
        weights = torch.softmax(states[0] @ gates[1].T, dim=1)
        best = weights.topk(2, dim=1)
        expected = torch.stack(
            [
                sum(
                    weight / best.values[token].sum() * outputs[expert][token]
                    for weight, expert in zip(best.values[token], best.indices[token], strict=True)
                )
                for token in range(5)
            ]
        )
        torch.testing.assert_close(block(states)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", SEEDS)
def test_the_general_expert_is_the_seeds_own_feed_forward_and_the_last(
    make_model, tmp_path, family
):
    seed = make_seed(make_model, family)
    experts = experts_of(seed, tmp_path, 2)
    result = mix(seed, experts, tmp_path / "mixture", experts_per_token=3, general_expert=True)
    assert result.contents.experts == ("expert-0", "expert-1", "seed")
    expected = logits_of(mean_of_feed_forwards(seed, [*experts, seed]))
    torch.testing.assert_close(logits_of(load(tmp_path / "mixture")), expected, rtol=0, atol=1e-5)


def test_twelve_experts_lie_in_their_order(make_model, tmp_path):
    """As text, expert 10 comes before expert 2."""
    seed = make_seed(make_model, "llama")
    experts = experts_of(seed, tmp_path, 12)
    mix(seed, experts, tmp_path / "mixture")
    stacked = load(tmp_path / "mixture").model.layers[0].mlp.experts.down_proj
    for number, folder in enumerate(experts):
        own = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
        assert torch.equal(stacked[number], own)


def test_files_have_the_names_that_the_families_first_checkpoints_have(make_model, tmp_path):
    wanted = {
        "llama": "model.layers.2.block_sparse_moe.experts.1.{w1,w2,w3}.weight",
        "qwen3": "model.layers.2.mlp.experts.1.{gate_proj,up_proj,down_proj}.weight",
        "olmo2": "model.layers.2.mlp.experts.1.{gate_proj,up_proj,down_proj}.weight",
    }
    for family, names in wanted.items():
        seed = make_seed(make_model, family)
        folder = tmp_path / family
        mix(seed, experts_of(seed, tmp_path / f"of-{family}", 2), folder)
        found = load_file(folder / "model.safetensors")
        first, parts, last = re.split(r"[{}]", names)
        assert all(f"{first}{part}{last}" in found for part in parts.split(","))
        assert f"{first.split('experts')[0]}gate.weight" in found
        load(folder).save_pretrained(tmp_path / f"{family}-again")
        again = load_file(tmp_path / f"{family}-again" / "model.safetensors")
        assert again.keys() == found.keys()
        assert all(torch.equal(again[name], found[name]) for name in found)


def test_layers_that_nobody_trained_stay_dense_where_the_family_can(make_model, tmp_path):
    for family, mixed in (("qwen3", [1, 2]), ("llama", [0, 1, 2])):
        seed = make_seed(make_model, family)
        parent = tmp_path / family
        first = expert_of(seed, parent, "first", number=1, layers=[2])
        second = expert_of(seed, parent, "second", number=2, layers=[1])
        contents = mix(seed, [first, second], parent / "mixture").contents
        assert contents.mixture_layers == mixed
        assert contents.trained_layers == {"first": [2], "second": [1]}
        expected = logits_of(mean_of_feed_forwards(seed, [first, second]))
        found = logits_of(load(parent / "mixture"))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "qwen3" / "mixture" / "config.json").read_text())
    assert config["mlp_only_layers"] == [0]


def test_what_records_say_is_frozen_is_not_read(make_model, tmp_path):
    """A NaN in a tensor that is the seed's by the record of its expert would be seen."""
    seed = make_seed(make_model, "qwen3")
    experts = experts_of(seed, tmp_path, 2, layers=[2])
    path = experts[1] / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"].fill_(float("nan"))
    tensors["model.layers.0.self_attn.q_proj.weight"].fill_(float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    (tmp_path / "mixture").mkdir()
    result = build_mixture(
        inputs_of(experts, ("model.layers.2.mlp.",)),
        tmp_path / "mixture",
        seed=MergeInput("seed", seed, trained_prefixes=()),
        mixing=Mixing("domains", 2),
        gates_LED=torch.zeros(NUM_LAYERS, 2, WIDTH),
    )
    assert result.contents.mixture_layers == [2]
    assert logits_of(load(tmp_path / "mixture")).isfinite().all()


def test_everything_else_is_the_seeds_or_the_mean_of_the_experts(make_model, tmp_path):
    seed = make_seed(make_model, "qwen3")
    moved = (".mlp.", "self_attn.q_proj", "input_layernorm")
    experts = experts_of(seed, tmp_path, 3, moved=moved, layers=[1])
    contents = mix(seed, experts, tmp_path / "mixture").contents
    assert contents.num_mean_tensors == 2
    mixture, own = (
        load_file(tmp_path / "mixture" / "model.safetensors"),
        load_file(seed / "model.safetensors"),
    )
    files = [load_file(folder / "model.safetensors") for folder in experts]
    for name in own.keys() & mixture.keys():
        if "layers.1." in name and any(sign in name for sign in moved):
            mean = torch.stack([tensors[name] for tensors in files]).mean(dim=0)
            torch.testing.assert_close(mixture[name], mean, rtol=0, atol=1e-6)
        else:
            assert torch.equal(mixture[name], own[name]), name


@pytest.mark.parametrize("family", SEEDS)
def test_an_output_layer_that_is_the_embedding_stays_it(make_model, tmp_path, family):
    seed = make_seed(make_model, family, tie_word_embeddings=True)
    experts = experts_of(seed, tmp_path, 2)
    mix(seed, experts, tmp_path / "mixture")
    model = load(tmp_path / "mixture")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected = logits_of(mean_of_feed_forwards(seed, experts))
    torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-4)


def test_experts_that_are_kept_as_what_changed_are_read_as_they_are(make_model, tmp_path):
    seed = make_seed(make_model, "qwen3", dtype="bfloat16")
    whole = experts_of(seed, tmp_path, 2, layers=[1, 2])
    deltas = []
    for folder in whole:
        changed = {
            name: tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
            if ".mlp." in name and "layers.0" not in name
        }
        deltas.append(tmp_path / "deltas" / folder.name)
        deltas[-1].mkdir(parents=True)
        save_trained(changed, deltas[-1], seed_folder=seed, store="delta")
    mix(seed, whole, tmp_path / "of-whole")
    mix(seed, deltas, tmp_path / "of-deltas")
    for name in ("model.safetensors", "config.json", "mixture.json"):
        of_whole, of_deltas = (
            (tmp_path / f / name).read_bytes() for f in ("of-whole", "of-deltas")
        )
        assert of_whole == of_deltas


def test_bytes_do_not_depend_on_the_number_of_threads(make_model, tmp_path):
    seed = make_seed(make_model, "llama")
    experts = experts_of(seed, tmp_path, 3, moved=(".mlp.", "self_attn"))
    gates = random_gates(3)
    for threads in (1, 2, 7):
        mix(seed, experts, tmp_path / str(threads), gates=gates, num_threads=threads)
    one, *others = (
        {path.name: path.read_bytes() for path in (tmp_path / str(threads)).iterdir()}
        for threads in (1, 2, 7)
    )
    assert all(other == one for other in others)


def test_a_seeds_own_window_length_and_rotation_are_kept(make_model, tmp_path):
    seed = make_seed(
        make_model,
        "mistral",
        sliding_window=8,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        rms_norm_eps=1e-3,
        head_dim=16,
    )
    expert = expert_of(seed, tmp_path, "expert", number=1)
    mix(seed, [expert, expert], tmp_path / "mixture")
    mixture = load(tmp_path / "mixture")
    assert (mixture.config.sliding_window, mixture.config.rms_norm_eps) == (8, 1e-3)
    expected = logits_of(load(expert))
    torch.testing.assert_close(logits_of(mixture), expected, rtol=0, atol=1e-5)


def test_active_weights_are_all_but_those_of_idle_experts(make_model, tmp_path):
    seed = make_seed(make_model, "qwen3")
    mix(seed, experts_of(seed, tmp_path, 4, layers=[1, 2]), tmp_path / "mixture")
    model = load(tmp_path / "mixture")
    # Of two mixture layers two experts idle: three matrices of 64 x 32 each.
    assert count_active(tmp_path / "mixture") == model.num_parameters() - 2 * 2 * 3 * 64 * 32


def test_seeds_without_a_mixture_are_refused_with_what_to_do_instead(make_model, tmp_path):
    refused = {
        "gpt_neox": ({}, "'gpt_neox' has no counterpart .*ensemble_report.*or merge them"),
        "llama": ({"attention_bias": True}, "attention_bias is true, and Mixtral has no biases"),
        "qwen3": (
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding window",
        ),
    }
    for family, (changes, message) in refused.items():
        seed = make_model(family, **changes)
        with pytest.raises(MergeError, match=message):
            mix(seed, [seed, seed], tmp_path / family)
        assert list((tmp_path / family).iterdir()) == []


def test_what_cannot_be_mixed_is_refused(make_model, tmp_path):
    seed = make_seed(make_model, "llama")
    experts = experts_of(seed, tmp_path, 2)
    with pytest.raises(MergeError, match="has 2 experts, and a token goes through 3"):
        mix(seed, experts, tmp_path / "few", experts_per_token=3)
    with pytest.raises(MergeError, match="No expert's feed-forward blocks differ"):
        mix(seed, [seed, seed], tmp_path / "same")
    path = experts[0] / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"expert-0 holds a NaN .*layers\.1\.mlp\.up_proj"):
        mix(seed, experts, tmp_path / "broken")
    other = make_seed(make_model, "llama", intermediate_size=96)
    with pytest.raises(MergeError, match="cannot be merged"):
        mix(seed, [experts[1], other], tmp_path / "shapes")


def test_a_folder_without_its_contents_is_refused(tmp_path):
    with pytest.raises(MergeError, match="holds no mixture"):
        MixtureContents.read(tmp_path)
