"""Speakers of model folders, without an experiment around them."""

import numpy as np

from mdel_assets.generation.networks import Networks
from mdel_assets.generation.speaker import Speaker
from mdel_assets.generation.weighing import FixedWeights
from mdel_assets.training.model_files import load_model, load_tokenizer, num_positions

GPT2 = {"n_layer": 3, "n_head": 2, "n_embd": 32, "n_positions": 64}
SHAPES = {
    "gpt_neox": {},
    "llama": {"num_key_value_heads": 1},
    "gpt2": GPT2,
    # A window that is shorter than the texts.
    "mistral": {"num_key_value_heads": 1, "sliding_window": 7},
}


def speaker_of(*folders, weigh=None):
    """Return a speaker of one model, or of several, weighed alike where ``weigh`` says nothing."""
    models = [load_model(folder, dtype="float32") for folder in folders]
    return Speaker(
        "model",
        Networks(models, tolerance=1e-4),
        experts=[folder.name for folder in folders],
        tokenizer=load_tokenizer(folders[0]),
        prefix=0,
        end_ids=frozenset([0]),
        context_length=num_positions(models[0].config),
        weigh=weigh or (lambda _: FixedWeights.uniform(len(folders))),
    )


def prompts_of(*lengths, size=320, seed=0):
    """Return prompts of random ids; 0 is the end of text."""
    draw = np.random.default_rng(seed)
    return [draw.integers(1, size, length).tolist() for length in lengths]


def greedy(speaker, prompt, *, num_tokens):
    """Return the likeliest continuation, token by token, up to the end of text or the context."""
    sequence = speaker.start(prompt)
    while len(sequence.tokens) - len(prompt) < num_tokens and sequence.has_room:
        token = int(sequence.log_probabilities_V.argmax())
        if token in speaker.end_ids:
            break
        speaker.step([sequence], [token])
    return sequence.tokens[len(prompt) :]
