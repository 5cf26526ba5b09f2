"""What sequences take in memory stays within what is counted for them before they begin."""

import weakref

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from mdel_assets.generation.weighing import RoutedWeights
from mdel_assets_tests.families import FAMILIES
from mdel_assets_tests.generation.speaking import prompts_of, speaker_of


class BuffersWatched(TorchFunctionMode):
    """Notes the most bytes that buffers of keys and values took at once, copies included."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        # Rows, heads, columns, width; nothing else is made of zeros.
        if function is torch.zeros and found.dim() == 4:
            key = object()
            self.alive[key] = found.nbytes
            weakref.finalize(found, self.alive.pop, key)
            self.peak = max(self.peak, self.bytes)
        return found

    @property
    def bytes(self):
        """Bytes of the buffers that are there."""
        return sum(self.alive.values())


def run_on(speaker, plan, watched):
    """Let sequences join and leave as in a server; yield in each turn how long those may get.

    ``plan`` has a prompt's length, the number of tokens written, and the turn of the beginning.
    """
    waiting, running, turn = list(plan), [], 0
    while waiting or running:
        for length, count, _ in [each for each in waiting if each[2] <= turn]:
            running.append((speaker.begin(prompts_of(length)[0]), length + count))
        waiting = [each for each in waiting if each[2] > turn]
        limits = [limit + 1 for _, limit in running]
        watched.peak = watched.bytes
        speaker.prefill_together([sequence for sequence, _ in running])
        running = [each for each in running if len(each[0].tokens) < each[1]]
        speaker.step([sequence for sequence, _ in running], [5] * len(running))
        yield limits
        turn += 1


@pytest.mark.parametrize(
    "plan",
    [
        [(900, 8, 2), *[(10 + n, 4 + 2 * (n % 4), n % 3) for n in range(15)]],
        [(90 * n, 20, n) for n in range(1, 9)],
        [(5, 140, 0), (70, 90, 20), (5, 5, 40)],
    ],
    ids=["one long", "all lengths", "growing"],
)
def test_buffers_stay_within_what_is_counted(plan, make_model):
    speaker = speaker_of(make_model("gpt_neox", max_position_embeddings=2048))
    with BuffersWatched() as watched:
        for limits in run_on(speaker, plan, watched):
            assert watched.peak <= speaker.cache_bytes(limits)
    assert watched.bytes == 0


def test_a_long_sequence_does_not_pad_the_short_ones_beside_it(make_model):
    speaker = speaker_of(make_model("gpt_neox", max_position_embeddings=4096))
    apart = speaker.cache_bytes([2000]) + speaker.cache_bytes([60] * 31)
    assert speaker.cache_bytes([2000, *[60] * 31]) < 4 * apart
    # Those of one length are not padded at all.
    assert speaker.cache_bytes([60] * 31) == 31 * speaker.cache_bytes([60])


def test_sequences_that_part_do_not_keep_what_they_shared(make_model):
    speaker = speaker_of(make_model("gpt_neox"))
    sequences = [speaker.begin(prompt) for prompt in prompts_of(*[30] * 8)]
    with BuffersWatched() as watched:
        speaker.prefill_together(sequences)
        for sequence in sequences:
            speaker.step([sequence], [5])
    assert watched.peak <= speaker.cache_bytes([32] * 8)


def switching(tokens):
    """All of the weight is the first expert's, then from 16 tokens on the second one's."""
    return np.where(np.arange(3) == int(len(tokens) >= 16), 0.0, -np.inf)


def test_what_a_sequence_keeps_is_its_own(experts):
    """Keys and values of an expert without weight, and hidden states, too."""
    speaker = speaker_of(
        *experts, weigh=lambda _: RoutedWeights(switching, num_experts=3, num_kept=1)
    )
    with BuffersWatched() as watched:
        sequences = [speaker.start(prompt) for prompt in prompts_of(*[14] * 8)]
        for _ in range(4):
            speaker.step(sequences, [5] * len(sequences))
        (kept,) = sequences = sequences[:1]
        speaker.step(sequences, [5])
        assert watched.bytes <= speaker.cache_bytes([len(kept.tokens) + 1])
    states = kept.held._states
    assert len(states) > 1
    assert sum(each.untyped_storage().nbytes() for each in states) == 20 * 32 * 4


@pytest.mark.parametrize("family", ["jamba", "mamba"])
def test_families_that_run_alone_are_counted_too(family, make_model):
    speaker = speaker_of(make_model(family, **FAMILIES[family]))
    assert not speaker.decodes_together
    sequences = [speaker.start(prompt) for prompt in prompts_of(3, 17)]
    taken = 0
    for sequence in sequences:
        for layer in sequence.held.models[0].own_cache.layers:
            for name in ("keys", "values", "conv_states", "recurrent_states"):
                found = getattr(layer, name, None)
                parts = found.values() if isinstance(found, dict) else [found]
                taken += sum(part.nbytes for part in parts if part is not None)
    assert taken > 0
    assert taken <= speaker.cache_bytes([4, 18]) < 2 * taken
