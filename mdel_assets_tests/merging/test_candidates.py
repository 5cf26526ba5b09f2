"""Candidates in memory are what a merge would write, cost the upper layers, and can be searched."""

import copy

import numpy as np
import pytest
import torch

from mdel_assets.errors import MergeError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.merging.candidates import Candidates, layer_groups
from mdel_assets.merging.search import search_weights
from mdel_assets.merging.sources import MergeInput
from mdel_assets.merging.streaming import merge_models
from mdel_assets.merging.trials import TrialLog
from mdel_assets.scoring.log_probabilities import token_log_probabilities
from mdel_assets.store.tensor_names import Layers
from mdel_assets.training.model_files import load_model, load_tokenizer
from mdel_assets_tests.merging.folders import recipe_of

RECIPE = recipe_of("task_arithmetic")
EVALUATION = Evaluation(max_length=32)
DOCUMENTS = [
    np.random.default_rng(n).integers(1, 320, size).tolist()
    for n, size in enumerate((1, 32, 33, 70, 5))
]
# Layers, of three, in which experts differ from the seed.
TRAINED = ("gpt_neox.layers.1.", "gpt_neox.layers.2.")


def save_experts(seed_folder, parent, count, *, trained=TRAINED, size=0.05):
    """Save experts that differ from the seed in tensors whose names begin with ``trained``."""
    seed = load_model(seed_folder)
    folders = []
    for number in range(count):
        draw = torch.Generator().manual_seed(number + 1)
        expert = copy.deepcopy(seed)
        with torch.no_grad():
            for name, tensor in expert.named_parameters():
                if name.startswith(trained):
                    noise = torch.randn(tensor.shape, generator=draw)
                    tensor.add_((size * noise).to(tensor.dtype))
        folders.append(parent / f"expert-{number}")
        expert.save_pretrained(folders[-1])
        load_tokenizer(seed_folder).save_pretrained(folders[-1])
    return folders


def candidates(seed_folder, experts, tmp_path, **options):
    inputs = [MergeInput(folder.name, folder) for folder in experts]
    base = MergeInput("seed", seed_folder)
    evaluation = options.pop("evaluation", EVALUATION)
    return Candidates(RECIPE, inputs, base=base, evaluation=evaluation, folder=tmp_path, **options)


def streamed(seed_folder, experts, weights, folder):
    """Merge on disk, by a recipe's weights, and return the folder."""
    inputs = [MergeInput(path.name, path, {"weight": weights[path.name]}) for path in experts]
    folder.mkdir()
    base = MergeInput("seed", seed_folder)
    merge_models(RECIPE, inputs, folder, base=base, model_folder=seed_folder)
    return folder


def plain(folder, documents=DOCUMENTS):
    return token_log_probabilities(load_model(folder), documents, prefix=0, max_length=32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("num_groups", [1, 2])
def test_a_candidate_has_the_bits_of_the_merge_that_is_written(
    make_model, tmp_path, dtype, num_groups
):
    seed = make_model(dtype=dtype)
    experts = save_experts(seed, tmp_path, 2)
    weights = np.array([[0.3, -0.2], [0.7, 0.0]])[:num_groups]
    with candidates(seed, experts, tmp_path, layer_groups=num_groups) as opened:
        found = opened.score(weights, DOCUMENTS, prefix=0)
        settings = opened.weight_settings(weights)
        in_memory = {name: p.clone() for name, p in opened._model.named_parameters()}
    folder = streamed(seed, experts, settings, tmp_path / "merged")
    merged = load_model(folder, dtype="float32")
    for name, tensor in merged.named_parameters():
        assert torch.equal(in_memory[name], tensor), name
    for ours, theirs in zip(found, plain_fp32(merged), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def plain_fp32(model):
    return token_log_probabilities(model, DOCUMENTS, prefix=0, max_length=32)


def test_layers_below_the_first_that_differs_run_once_for_all_candidates(make_model, tmp_path):
    seed = make_model()
    experts = save_experts(seed, tmp_path, 2)
    with candidates(seed, experts, tmp_path) as opened:
        assert opened.num_shared_layers == 1
        counts = [0, 0, 0]
        for index, layer in enumerate(opened._model.gpt_neox.layers):
            forward = layer.forward

            def counting(*arguments, index=index, forward=forward, **options):
                counts[index] += 1
                return forward(*arguments, **options)

            layer.forward = counting
        opened.score(np.array([[0.1, 0.2]]), DOCUMENTS, prefix=0)
        first = list(counts)
        for weight in (0.3, 0.4, 0.5):
            opened.score(np.array([[weight, 0.2]]), DOCUMENTS, prefix=0)
    # Each candidate is probed twice in whole before it is wired, and once when it is.
    probes = 2 * 3
    assert counts[0] - first[0] == probes
    assert counts[2] - first[2] > probes
    assert counts[1] == counts[2]


@pytest.mark.parametrize(
    ("trained", "num_shared"),
    [
        (("gpt_neox.layers.2.",), 2),
        (("gpt_neox.layers.2.mlp.", "lm_head."), 2),
        (("gpt_neox.final_layer_norm.",), 3),
        (("gpt_neox.embed_in.", "gpt_neox.layers.2."), 0),
    ],
)
def test_scores_are_right_wherever_experts_differ(make_model, tmp_path, trained, num_shared):
    seed = make_model()
    experts = save_experts(seed, tmp_path, 2, trained=trained)
    with candidates(seed, experts, tmp_path) as opened:
        assert opened.num_shared_layers == num_shared
        for number, weights in enumerate(([0.0, 0.0], [0.6, 0.3], [1.0, 1.0])):
            found = opened.score(np.array([weights]), DOCUMENTS, prefix=0)
            named = dict(zip(("expert-0", "expert-1"), weights, strict=True))
            folder = streamed(seed, experts, named, tmp_path / f"merged-{number}")
            for ours, theirs in zip(found, plain(folder), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_states_that_are_no_longer_right_are_not_used(make_model, tmp_path):
    """A layer below is changed behind the search's back: the probe tells, and all layers run."""
    seed = make_model()
    experts = save_experts(seed, tmp_path, 1)
    weights = np.array([[0.5]])
    with candidates(seed, experts, tmp_path) as opened:
        before = opened.score(weights, DOCUMENTS, prefix=0)
        with torch.no_grad():
            opened._model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight.mul_(1.5)
        after = opened.score(weights, DOCUMENTS, prefix=0)
        expected = plain_fp32(opened._model)
    assert not np.allclose(before[3], after[3], atol=1e-3)
    for ours, theirs in zip(after, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_weights_that_text_was_drawn_with_are_found_again(make_model, tmp_path):
    """Text drawn from a merge is most probable under that merge: its weights are the optimum."""
    seed = make_model()
    experts = save_experts(seed, tmp_path, 2, size=0.15)
    drawn_with = {"expert-0": 0.7, "expert-1": 0.35}
    source = load_model(streamed(seed, experts, drawn_with, tmp_path / "source"))
    documents = drawn_documents(source, count=128, length=31)
    count = sum(map(len, documents))

    def bits(scores):
        return -float(sum(s.sum(dtype=np.float64) for s in scores)) / count / np.log(2)

    with candidates(seed, experts, tmp_path) as opened:

        def score(weights):
            return {"drawn": bits(opened.score(weights.reshape(1, 2), documents, prefix=0))}

        log = TrialLog(tmp_path / "trials.jsonl")
        best = search_weights(score, num_models=2, num_trials=40, log=log)
    np.testing.assert_allclose(best.weights, list(drawn_with.values()), atol=0.08)
    # By another way, loaded from disk: on this sample as good as what drew it, or a little better.
    own = bits(plain(tmp_path / "source", documents))
    assert own - 0.02 < best.bits_per_byte < own + 0.002
    assert max(t.bits_per_byte for t in log) > own + 0.05


def drawn_documents(model, *, count, length):
    """Return ``count`` documents of ``length`` ids, drawn from the model token by token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros((count, 1), dtype=torch.int64)
    with torch.inference_mode():
        for _ in range(length):
            logits = model(input_ids=ids).logits[:, -1].double()
            following = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, following], dim=1)
    return ids[:, 1:].tolist()


def test_half_precision_scores_are_those_of_the_merge_in_half_precision(make_model, tmp_path):
    from mdel_assets.scoring.loading import load_for_scoring

    evaluation = Evaluation(max_length=32, dtype="bfloat16")
    seed = make_model()
    experts = save_experts(seed, tmp_path, 1)
    weights = np.array([[0.4]])
    with candidates(seed, experts, tmp_path, evaluation=evaluation) as opened:
        opened.score(np.array([[0.9]]), DOCUMENTS, prefix=0)
        opened.score(weights, DOCUMENTS, prefix=0)
        ours = dict(opened._model.named_parameters())
        folder = streamed(seed, experts, {"expert-0": 0.4}, tmp_path / "merged")
        for name, tensor in load_for_scoring(folder, evaluation).named_parameters():
            assert torch.equal(ours[name], tensor), name


def test_groups_of_layers_are_neighbours_and_everything_else_has_its_place():
    names = [f"m.layers.{n}.w" for n in range(6)]
    layers = Layers.of([*names, "m.embed_tokens.weight", "lm_head.weight"])
    changed = {*names[1:], "m.embed_tokens.weight", "lm_head.weight"}
    assert layer_groups(layers, changed, count=2) == [
        ["m.layers.1.", "m.layers.2.", "m.layers.3.", "m.embed_tokens.weight"],
        ["m.layers.4.", "m.layers.5.", None],
    ]
    with pytest.raises(MergeError, match="layer_groups is 6, but the models differ in 5 layers"):
        layer_groups(layers, changed, count=6)


def test_a_model_of_another_architecture_in_memory_than_on_disk_is_refused(make_model, tmp_path):
    from safetensors.torch import load_file, save_file

    seed = make_model()
    experts = save_experts(seed, tmp_path, 1)
    for folder, scale in ((seed, 1.0), (experts[0], 2.0)):
        tensors = load_file(folder / "model.safetensors")
        tensors["gpt_neox.layers.2.unheard_of"] = torch.ones(2) * scale
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        pytest.raises(MergeError, match=r"unheard_of is not a parameter of GPTNeoXForCausalLM"),
        candidates(seed, experts, tmp_path),
    ):
        pass
