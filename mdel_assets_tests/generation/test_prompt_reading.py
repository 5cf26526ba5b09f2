"""Prompts that are read together are what each is alone, and share passes where that pays."""

import numpy as np
import pytest
import torch

from mdel_assets.generation.prompt_reading import PromptReader
from mdel_assets.generation.weighing import FixedWeights, PosteriorWeights, RoutedWeights
from mdel_assets_tests.generation.speaking import SHAPES, prompts_of, speaker_of


@pytest.fixture
def note_passes():
    """Return a function that returns the shapes of a speaker's passes, as they come."""

    def note(speaker):
        shapes = []

        def hook(_, arguments, options):
            shapes.append(tuple(options["input_ids"].shape))

        speaker.networks.models[0].register_forward_pre_hook(hook, with_kwargs=True)
        return shapes

    return note


@pytest.mark.parametrize("family", SHAPES)
def test_prompts_of_several_lengths_share_a_pass_and_are_what_each_is_alone(
    family, make_model, note_passes
):
    speaker = speaker_of(make_model(family, **SHAPES[family]))
    prompts = prompts_of(5, 0, 13, 9)
    alone = [speaker.start(prompt) for prompt in prompts]
    together = [speaker.begin(prompt) for prompt in prompts]
    shapes = note_passes(speaker)
    speaker.prefill_together(together)
    # 13 tokens and the one that opens the text.
    assert shapes == [(4, 14)]
    for token in (7, 8, None):
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(
                one.log_probabilities_V, other.log_probabilities_V, atol=2e-5, rtol=0
            )
        if token is not None:
            speaker.step(together, [token] * 4)
            for other in alone:
                speaker.step([other], [token])


def routed(_):
    """All of the weight is one expert's: which one differs by text, and changes at 8 and 16."""

    def route(tokens):
        return np.where(np.arange(3) == (tokens[0] + len(tokens) // 8) % 3, 0.0, -np.inf)

    return RoutedWeights(route, num_experts=3, num_kept=1)


@pytest.mark.parametrize("num_top", [None, 2])
@pytest.mark.parametrize(
    "weigh",
    [
        lambda _: FixedWeights(np.log([0.5, 0.2, 0.3])),
        lambda _: PosteriorWeights(np.zeros(3), num_kept=2),
        routed,
    ],
    ids=["fixed", "posterior", "routed"],
)
def test_an_ensemble_reads_prompts_together_as_it_reads_each_alone(weigh, num_top, experts):
    speaker = speaker_of(*experts, weigh=weigh)
    prompts = [[number, *prompt[1:]] for number, prompt in enumerate(prompts_of(20, 15, 9), 4)]
    alone = [speaker.start(prompt, num_top=num_top) for prompt in prompts]
    together = [speaker.begin(prompt, num_top=num_top) for prompt in prompts]
    speaker.prefill_together(together)
    for token in (5, 6, None):
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(
                one.log_probabilities_V, other.log_probabilities_V, atol=2e-5, rtol=0
            )
            np.testing.assert_allclose(one.weights_E, other.weights_E, atol=1e-4)
        if token is not None:
            speaker.step(together, [token] * 3)
            for other in alone:
                speaker.step([other], [token])
    for one, other in zip(together, alone, strict=True):
        if num_top is None:
            assert one.prompt_scores is None
            continue
        assert [score.token for score in one.prompt_scores] == other.tokens[:-2]
        for ours, theirs in zip(one.prompt_scores, other.prompt_scores, strict=True):
            assert abs(ours.log_probability - theirs.log_probability) < 2e-5
            assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]


def test_prompts_whose_lengths_differ_much_are_not_padded_to_each_other(make_model, note_passes):
    speaker = speaker_of(make_model("gpt_neox"))
    sequences = [speaker.begin(prompt) for prompt in prompts_of(4, 40, 19, 35, 21)]
    shapes = note_passes(speaker)
    speaker.prefill_together(sequences)
    # 5 tokens are 17 fewer than 22; the pass that holds the first of those who wait is next.
    assert shapes == [(1, 5), (2, 41), (2, 22)]
    assert all(sequence.is_ready for sequence in sequences)


def test_a_pass_gives_no_more_numbers_than_it_may(make_model, note_passes):
    """With scores of every place, 50 places of 320 words are what a pass may give."""
    speaker = speaker_of(make_model("gpt_neox"))
    reader = PromptReader(speaker.networks, prefix=0, numbers_per_pass=50 * 320)
    plain = [speaker.begin(prompt) for prompt in prompts_of(19, 19, 19)]
    scored = [speaker.begin(prompt, num_top=0) for prompt in prompts_of(19, 19, 59)]
    shapes = note_passes(speaker)
    reader.read([*plain, *scored], None)
    assert shapes == [(3, 20), (2, 20), (1, 50), (1, 10)]


def test_a_prompt_waits_for_the_next_turn_rather_than_be_torn(make_model, note_passes):
    speaker = speaker_of(make_model("gpt_neox"))
    sequences = [speaker.begin(prompt) for prompt in prompts_of(29, 29, 29, 49)]
    shapes = note_passes(speaker)
    ready = []
    for _ in range(3):
        speaker.prefill_together(sequences, 70)
        ready.append(sum(sequence.is_ready for sequence in sequences))
    assert shapes == [(2, 30), (1, 30), (1, 50)]
    assert ready == [2, 3, 4]


def test_a_prompt_in_pieces_is_the_prompt_in_one(experts):
    speaker = speaker_of(*experts, weigh=lambda _: PosteriorWeights(np.zeros(3), num_kept=2))
    (prompt,) = prompts_of(30)
    whole = speaker.start(prompt, num_top=2)
    pieces = speaker.begin(prompt, num_top=2)
    answers = []
    while not pieces.is_ready:
        answers.append(speaker.prefill(pieces, 7))
    # The prefix token and 30 more.
    assert answers == [False] * 4 + [True]
    torch.testing.assert_close(
        pieces.log_probabilities_V, whole.log_probabilities_V, atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(pieces.weights_E, whole.weights_E, atol=1e-4)
    assert [score.token for score in pieces.prompt_scores] == prompt
    for ours, theirs in zip(pieces.prompt_scores, whole.prompt_scores, strict=True):
        assert abs(ours.log_probability - theirs.log_probability) < 1e-5
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]
