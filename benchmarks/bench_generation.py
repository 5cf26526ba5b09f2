"""Text token by token: one model against transformers' generate, and a top-2 ensemble of experts.

The model has the proportions of Pythia-1B at a quarter of its width: 16 layers and an output layer
as large as two of them. Of eight experts the last 7 layers differ. The ensemble's weights are the
posterior, which needs every expert's probability of every token, so its peer runs all eight one
after the other; the limit is the ratio of the weights that are read for a token. Sides take turns
in one process.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.bench_shared_trunk import experts
from benchmarks.figures import show
from benchmarks.models import gpt_neox
from mdel_assets.generation.networks import Networks
from mdel_assets.generation.speaker import Speaker
from mdel_assets.generation.speakers import with_same_weights
from mdel_assets.generation.weighing import FixedWeights, PosteriorWeights, Weighing

_NUM_EXPERTS, _NUM_LAYERS, _NUM_SHARED, _LAYERS_OF_HEAD = 8, 16, 9, 2
_NUM_PROMPT, _NUM_TOKENS, _ROUNDS = 64, 32, 3
_NUM_TOGETHER = 8
_TOLERANCE = 1e-4


def main() -> None:
    """Print tokens per second of one model and of the ensemble as ratios to their peers."""
    models = experts()
    prompt = np.random.default_rng(0).integers(1, 1000, _NUM_PROMPT).tolist()
    _one_model(models[0], prompt, name="one_model")
    small = gpt_neox(width=128, num_layers=6, num_heads=4, vocab_size=4096).eval()
    _one_model(small, prompt, name="one_small_model")
    alone = [_speaker([model]) for model in models]
    _ensemble(alone, _speaker([with_same_weights(model) for model in models]), prompt)


def _one_model(model: Any, prompt: list[int], *, name: str) -> None:
    speaker = _speaker([model])
    ours, theirs, batches = [], [], []
    for _ in range(_ROUNDS):
        theirs.append(_seconds(lambda: _by_transformers(model, prompt)))
        ours.append(_seconds(lambda: _decode([speaker], [prompt])))
        batches.append(_seconds(lambda: _decode([speaker], [prompt] * _NUM_TOGETHER)))
    pace = float(np.median(np.array(theirs) / np.array(ours)))
    together = float(np.median(_NUM_TOGETHER * np.array(ours) / np.array(batches)))
    show(f"generation/{name}/pace", _NUM_TOKENS / float(np.median(ours)), "tokens/s")
    show(f"generation/{name}", pace, "ratio", peer="transformers' generate")
    show(f"generation/{name}/batch_of_8", together, "ratio", peer="one sequence at a time")


def _ensemble(alone: list[Speaker], together: Speaker, prompt: list[int]) -> None:
    ratios = []
    for _ in range(_ROUNDS):
        apart = _seconds(lambda: _decode(alone, [prompt]))
        ratios.append(apart / _seconds(lambda: _decode([together], [prompt])))
    own = _NUM_LAYERS - _NUM_SHARED + _LAYERS_OF_HEAD
    limit = _NUM_EXPERTS * (_NUM_SHARED + own) / (_NUM_SHARED + _NUM_EXPERTS * own)
    peer = "its experts one after the other"
    show("generation/top2_of_8", float(np.median(ratios)), "ratio", peer=peer)
    show("generation/top2_of_8_limit", limit, "ratio", peer=peer)


def _speaker(models: list[Any]) -> Speaker:
    networks = Networks(models, tolerance=_TOLERANCE)
    count = len(models)

    def weigh(_: str | None) -> Weighing:
        equal_E = FixedWeights.uniform(count).log_weights()
        return PosteriorWeights(equal_E, num_kept=2) if count > 1 else FixedWeights(equal_E)

    return Speaker(
        "benchmark",
        networks,
        experts=[str(number) for number in range(count)],
        tokenizer=None,
        prefix=0,
        end_ids=frozenset(),
        context_length=None,
        weigh=weigh,
    )


def _decode(speakers: list[Speaker], prompts: list[list[int]]) -> None:
    """Take the likeliest tokens; of several speakers, the first says which, and all read them."""
    texts = [[speaker.start(prompt) for prompt in prompts] for speaker in speakers]
    for _ in range(_NUM_TOKENS - 1):
        tokens = [int(sequence.log_probabilities_V.argmax()) for sequence in texts[0]]
        for speaker, sequences in zip(speakers, texts, strict=True):
            speaker.step(sequences, tokens)


def _by_transformers(model: Any, prompt: list[int]) -> None:
    import torch

    inputs = torch.tensor([[0, *prompt]])
    with torch.inference_mode():
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=_NUM_TOKENS,
            min_new_tokens=_NUM_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )


def _seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main()
