"""The price of sample texts."""

import math

from mdel_assets.evaluation.judged_models import judged_model
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.line.price import Pace, Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# A model is loaded and tried in so many seconds; a step takes a part of its own, and reads weights.
SECONDS_TO_LOAD, _SECONDS_PER_STEP, _BYTES_PER_SECOND = 0.4, 5e-3, 1e10
_TEXTS_PER_STEP = 16
# Keys and values while a buffer grows: the old one and the new.
_CACHE_COPIES = 2
# Prompt, true text and continuation, as JSON and as Markdown.
_COPIES = 2.3


def of_samples(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's texts, or of all experts'.

    A step computes what its tokens need, and reads every weight for them.
    """
    from mdel_assets.generation.beginnings import CHARACTERS_PER_TOKEN

    settings, judged = sizes.experiment.evaluation.sample_texts, judged_model(sizes, key)
    experts = len(sizes.domains) if key == POSTERIOR else 1
    num_texts = settings.num_documents * len(sizes.domains)
    written = num_texts * settings.max_new_tokens
    characters = settings.prompt_characters + 2 * CHARACTERS_PER_TOKEN * settings.max_new_tokens
    num_tokens = written + num_texts * characters * judged.tokens_per_byte
    length = max(2, round(num_tokens / max(1, num_texts)))
    held = 4.0 * judged.num_parameters
    num_cached = float(judged.model.num_layers)
    if judged.model is sizes.model:
        training = sizes.experiment.training
        trained = judged.model.trained(training.trained_layers, training.adapter)
        held += 4.0 * experts * trained.num_changed
        num_cached += (experts - 1) * (judged.model.num_layers - judged.num_shared)
    cached = num_cached * min(_TEXTS_PER_STEP, num_texts) * length
    held += _CACHE_COPIES * cached * 2 * 4.0 * judged.model.cache_width
    seconds = seconds_to_write(
        num_texts, settings.max_new_tokens, num_parameters=judged.num_parameters
    )
    return Price(
        num_tokens=num_tokens,
        operations=experts * judged.forward(num_tokens, length=length, num_together=experts),
        disk_bytes=RECORD_BYTES + _COPIES * num_texts * characters,
        memory_bytes=held,
        core_seconds=experts * (SECONDS_TO_LOAD + seconds),
        pace=Pace("scoring", sizes.experiment.evaluation.max_length, "float32"),
        config=judged.config,
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
