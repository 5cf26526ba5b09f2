"""Decoding against transformers' own, and many sequences at once against each alone."""

import numpy as np
import pytest
import torch

from mdel_assets.errors import GenerationError
from mdel_assets.experiment.evaluation import Evaluation
from mdel_assets.generation.forward_passes import Manner
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.sampling import Sampler
from mdel_assets.generation.weighing import FixedWeights, PosteriorWeights, RoutedWeights
from mdel_assets.scoring.loading import load_for_scoring
from mdel_assets.training.model_files import load_model
from mdel_assets_tests.families import FAMILIES
from mdel_assets_tests.generation.speaking import GPT2, SHAPES, greedy, prompts_of, speaker_of

ONE_BY_ONE = {"jamba": Manner.ALONE, "mamba": Manner.ALONE, "rwkv": Manner.ANEW}


def by_transformers(folder, prompt, *, num_tokens):
    """Return transformers' greedy continuation of the end-of-text token and the prompt."""
    model = load_model(folder, dtype="float32")
    inputs = torch.tensor([[0, *prompt]])
    with torch.inference_mode():
        found = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
        )
    tokens = found[0, inputs.shape[1] :].tolist()
    return tokens[: tokens.index(0)] if 0 in tokens else tokens


@pytest.mark.parametrize("family", SHAPES)
def test_greedy_tokens_are_those_of_transformers(family, make_model):
    folder = make_model(family, **SHAPES[family])
    speaker = speaker_of(folder)
    assert speaker.decodes_together
    lengths = []
    for prompt in prompts_of(0, 1, 9, 30):
        tokens = greedy(speaker, prompt, num_tokens=30)
        assert tokens == by_transformers(folder, prompt, num_tokens=30)
        lengths.append(len(tokens))
    assert max(lengths) > 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_continued_in_the_way_that_is_right_for_it(family, make_model):
    folder = make_model(family, **FAMILIES[family])
    speaker = speaker_of(folder)
    assert speaker.networks.manner is ONE_BY_ONE.get(family, Manner.TOGETHER)
    sequences = [speaker.start(prompt) for prompt in prompts_of(3, 11)]
    for prompt, sequence in zip(prompts_of(3, 11), sequences, strict=True):
        for _ in range(3):
            speaker.step([sequence], [5])
        whole = torch.tensor([[0, *prompt, 5, 5, 5]])
        with torch.inference_mode():
            logits = load_model(folder, dtype="float32")(input_ids=whole, use_cache=False).logits
        expected = logits[0, -1].log_softmax(dim=0)
        torch.testing.assert_close(sequence.log_probabilities_V, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("family", SHAPES)
def test_sequences_that_join_and_leave_are_what_each_is_alone(family, make_model):
    speaker = speaker_of(make_model(family, **SHAPES[family]))
    assert speaker.decodes_together
    prompts = prompts_of(5, 0, 21, 13)
    given = prompts_of(12, 12, 12, 12, seed=1)
    alone = []
    for prompt, tokens in zip(prompts, given, strict=True):
        sequence = speaker.start(prompt)
        seen = [sequence.log_probabilities_V]
        for token in tokens:
            speaker.step([sequence], [token])
            seen.append(sequence.log_probabilities_V)
        alone.append(torch.stack(seen))
    # Whom each step is for: they join one after the other, pause, and leave.
    steps = [[0], [0, 1], [2, 0, 1], [0, 1, 2, 3], [3, 1], [0, 2, 3]] + [[3, 2, 1, 0]] * 4
    together = {}
    done = dict.fromkeys(range(4), 0)
    for members in steps:
        for b in members:
            if b not in together:
                together[b] = speaker.start(prompts[b])
        speaker.step([together[b] for b in members], [given[b][done[b]] for b in members])
        for b in members:
            done[b] += 1
            found = together[b].log_probabilities_V
            torch.testing.assert_close(found, alone[b][done[b]], atol=2e-5, rtol=0)


def test_long_texts_outgrow_their_buffers_and_stay_right(make_model):
    folder = make_model("gpt_neox", max_position_embeddings=256)
    speaker = speaker_of(folder)
    model = load_model(folder, dtype="float32")
    texts = prompts_of(180, 150)
    sequences = [speaker.start(text[:place]) for text, place in zip(texts, (10, 1), strict=True)]
    for place in range(140):
        found = [sequence.log_probabilities_V for sequence in sequences]
        speaker.step(sequences, [texts[0][10 + place], texts[1][1 + place]])
    for text, sequence, last in zip(texts, sequences, found, strict=True):
        fed = torch.tensor([[0, *text[: len(sequence.tokens)]]])
        with torch.inference_mode():
            expected_TV = model(input_ids=fed, use_cache=False).logits[0].log_softmax(dim=1)
        torch.testing.assert_close(last, expected_TV[-2], atol=5e-5, rtol=0)
        torch.testing.assert_close(sequence.log_probabilities_V, expected_TV[-1], atol=5e-5, rtol=0)


def test_shared_layers_run_once_for_all_experts(experts):
    speaker = speaker_of(*experts)
    modules = {m for model in speaker.networks.models for m in model.modules()}
    calls = []
    for module in modules:
        if type(module).__name__ == "GPTNeoXAttention":
            module.register_forward_hook(lambda module, *_: calls.append(module.layer_idx))
    sequence = speaker.start([5, 6])
    calls.clear()
    speaker.step([sequence], [7])
    assert speaker.networks.num_shared_layers == 1
    assert sorted(calls) == [0, 1, 1, 1, 2, 2, 2]


def test_an_ensemble_gives_the_mean_of_its_experts_probabilities(experts):
    shares = np.array([0.5, 0.2, 0.3])
    speaker = speaker_of(*experts, weigh=lambda _: FixedWeights(np.log(shares)))
    singles = [speaker_of(folder) for folder in experts]
    (prompt,) = prompts_of(20)
    together = speaker.start(prompt, num_top=3)
    apart = [single.start(prompt, num_top=3) for single in singles]
    for place in range(20):
        expected = sum(
            w * np.exp(s.prompt_scores[place].log_probability)
            for w, s in zip(shares, apart, strict=True)
        )
        found = together.prompt_scores[place].log_probability
        np.testing.assert_allclose(found, np.log(expected), atol=1e-5)
    for token in (3, 4, 5):
        for one, sequence in zip([speaker, *singles], [together, *apart], strict=True):
            one.step([sequence], [token])
        expected_V = sum(
            w * s.log_probabilities_V.double().exp() for w, s in zip(shares, apart, strict=True)
        )
        torch.testing.assert_close(
            together.log_probabilities_V.double(), expected_V.log(), atol=1e-5, rtol=0
        )


def test_an_expert_without_weight_does_not_run_and_reads_up_once_it_has_some(experts):
    """The router changes its mind at 8, 16 and 32 tokens; 0.0 is all of the weight."""
    turns = {8: 1, 16: 2, 32: 1}

    def route(tokens):
        return np.where(np.arange(3) == turns[len(tokens)], 0.0, -np.inf)

    def weigh(_):
        return RoutedWeights(route, num_experts=3, num_kept=1)

    speaker = speaker_of(*experts, weigh=weigh)
    ran = []
    for number, model in enumerate(speaker.networks.models):
        model.lm_head.register_forward_hook(lambda *_, n=number: ran.append(n))
    singles = [speaker_of(folder) for folder in experts]
    (tokens,) = prompts_of(40)
    sequence = speaker.start(tokens[:10])
    assert set(ran) == {1}
    apart = [single.start(tokens[:10]) for single in singles]
    for place in range(10, 40):
        expert = turns[max(turn for turn in turns if turn <= place)]
        torch.testing.assert_close(
            sequence.log_probabilities_V, apart[expert].log_probabilities_V, atol=2e-5, rtol=0
        )
        for one, each in zip([speaker, *singles], [sequence, *apart], strict=True):
            if each is sequence:
                ran.clear()
            one.step([each], [tokens[place]])
            if each is sequence:
                assert set(ran) == {turns[max(turn for turn in turns if turn <= place + 1)]}


def test_the_posterior_goes_on_over_prompt_and_continuation(experts):
    prior = np.log([0.6, 0.3, 0.1])
    speaker = speaker_of(*experts, weigh=lambda _: PosteriorWeights(prior, num_kept=None))
    singles = [speaker_of(folder) for folder in experts]
    (tokens,) = prompts_of(12)
    sequence = speaker.start(tokens[:7])
    for token in tokens[7:]:
        speaker.step([sequence], [token])
    scored = [single.start(tokens, num_top=0).prompt_scores for single in singles]
    joint = prior + [sum(score.log_probability for score in scores) for scores in scored]
    expected = np.exp(joint - np.logaddexp.reduce(joint))
    np.testing.assert_allclose(sequence.weights_E, expected, atol=1e-4)
    assert 0.01 < expected.max() < 0.9999


def test_a_seeded_sample_repeats_alone_and_in_a_batch(experts):
    speaker = speaker_of(*experts, weigh=lambda _: PosteriorWeights(np.zeros(3), num_kept=2))
    prompts = prompts_of(4, 17, 9)

    def sample(members):
        sequences = [speaker.start(prompts[b]) for b in members]
        samplers = [Sampler(temperature=0.9, top_p=0.9, seed=b) for b in members]
        for _ in range(20):
            chosen = [
                sampler.choose(sequence.log_probabilities_V)
                for sampler, sequence in zip(samplers, sequences, strict=True)
            ]
            speaker.step(sequences, chosen)
        return [sequence.tokens for sequence in sequences]

    together = sample([0, 1, 2])
    assert [sample([b])[0] for b in range(3)] == together
    assert len({tuple(tokens[-20:]) for tokens in together}) == 3


def test_the_context_is_where_a_sequence_ends(make_model):
    folder = make_model("gpt2", **GPT2)
    speaker = speaker_of(folder)
    assert speaker.context_length == 64
    (prompt,) = prompts_of(62)
    sequence = speaker.start(prompt)
    speaker.step([sequence], [5])
    assert sequence.has_room
    speaker.step([sequence], [6])
    assert not sequence.has_room
    assert len(sequence.tokens) == 64
    with pytest.raises(GenerationError, match=r"has 64 tokens.*reads 64 at most.*to 63 tokens"):
        speaker.start(prompts_of(64)[0])
    with pytest.raises(GenerationError, match=r"token id 320.*ids from 0 to 319"):
        speaker.start([5, 320])


def test_a_model_that_diverged_is_refused(make_model, tmp_path):
    folder = make_model("gpt_neox")
    model = load_model(folder, dtype="float32")
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")
    model.save_pretrained(tmp_path)
    for path in folder.glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GenerationError, match=r"not numbers.*Train it again"):
        speaker_of(tmp_path).start([5])


def test_models_whose_layers_cannot_be_run_apart_run_alone(make_model):
    models = [
        load_model(make_model("mamba", state_size=8, seed=n), dtype="float32") for n in (0, 1)
    ]
    networks = Networks(models, tolerance=1e-4)
    assert (networks.manner, networks.num_shared_layers) == (Manner.ALONE, 0)


def test_weights_stored_in_half_precision_are_fp32_and_give_what_scoring_gives(make_model):
    folder = make_model("gpt_neox", dtype="float16")
    evaluation = Evaluation(max_length=32)
    widened = load_for_scoring(folder, evaluation, is_widened=True)
    assert {tensor.dtype for tensor in widened.parameters()} == {torch.float32}
    assert {type(m) for m in widened.modules() if hasattr(m, "in_features")} == {torch.nn.Linear}
    scored = load_for_scoring(folder, evaluation)
    ids = torch.tensor(prompts_of(20))
    with torch.inference_mode():
        assert torch.equal(widened(input_ids=ids).logits, scored(input_ids=ids).logits)
