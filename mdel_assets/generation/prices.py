"""The price of sample texts."""

import math

from mdel_assets.evaluation.judged_models import judged_model
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.line.price import Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# A model is loaded and tried in so many seconds; a step takes a part of its own, and reads weights.
SECONDS_TO_LOAD, _SECONDS_PER_STEP, _BYTES_PER_SECOND = 0.4, 5e-3, 1e10
_TEXTS_PER_STEP = 16
# Prompt, true text and continuation, as JSON and as Markdown.
_COPIES = 2.3


def of_samples(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's texts, or of all experts'.

    A step reads every weight for a few tokens, so that its time is that of the memory.
    """
    from mdel_assets.generation.beginnings import CHARACTERS_PER_TOKEN

    settings, judged = sizes.experiment.evaluation.sample_texts, judged_model(sizes, key)
    experts = len(sizes.domains) if key == POSTERIOR else 1
    num_texts = settings.num_documents * len(sizes.domains)
    written = num_texts * settings.max_new_tokens
    characters = settings.prompt_characters + 2 * CHARACTERS_PER_TOKEN * settings.max_new_tokens
    held = 4.0 * judged.num_parameters
    if judged.model is sizes.model:
        training = sizes.experiment.training
        changed = judged.model.trained(training.trained_layers, training.adapter).num_changed
        held += 4.0 * experts * changed
    seconds = seconds_to_write(
        num_texts, settings.max_new_tokens, num_parameters=judged.num_parameters
    )
    return Price(
        num_tokens=written + num_texts * characters * judged.tokens_per_byte,
        disk_bytes=RECORD_BYTES + _COPIES * num_texts * characters,
        memory_bytes=held,
        core_seconds=experts * (SECONDS_TO_LOAD + seconds),
    )


def seconds_to_write(
    num_texts: float,
    num_tokens: float,
    *,
    num_parameters: float,
    at_once: int = _TEXTS_PER_STEP,
) -> float:
    """Return how long a model writes that many texts, each of so many tokens."""
    steps = num_tokens * math.ceil(num_texts / at_once)
    return steps * (_SECONDS_PER_STEP + 4.0 * num_parameters / _BYTES_PER_SECOND)
