"""The price of sample texts."""

import math

from mdel_assets.experiment.model_keys import POSTERIOR, Family
from mdel_assets.line.price import Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# A model is loaded and tried in so many seconds; a step takes a part of its own, and reads weights.
_SECONDS_TO_LOAD, _SECONDS_PER_STEP, _BYTES_PER_SECOND = 0.4, 5e-3, 1e10
_TEXTS_PER_STEP = 16
# Prompt, true text and continuation, as JSON and as Markdown.
_COPIES = 2.3


def of_samples(sizes: Sizes, key: str) -> Price | None:
    """Return the price of one model's texts, or of all experts'; None for a model from elsewhere.

    A step reads every weight for a few tokens, so that its time is that of the memory.
    """
    from mdel_assets.generation.beginnings import CHARACTERS_PER_TOKEN

    if Family.REFERENCE.has(key) or Family.MIXTURE.has(key):
        return None
    settings, model = sizes.experiment.evaluation.sample_texts, sizes.model
    experts = len(sizes.domains) if key == POSTERIOR else 1
    num_texts = settings.num_documents * len(sizes.domains)
    written = num_texts * settings.max_new_tokens
    characters = settings.prompt_characters + 2 * CHARACTERS_PER_TOKEN * settings.max_new_tokens
    training = sizes.experiment.training
    changed = model.trained(training.trained_layers, training.adapter).num_changed
    held = 4.0 * (model.num_parameters + experts * changed)
    steps = settings.max_new_tokens * math.ceil(num_texts / _TEXTS_PER_STEP)
    seconds = steps * (_SECONDS_PER_STEP + 4.0 * model.num_parameters / _BYTES_PER_SECOND)
    return Price(
        num_tokens=written + num_texts * characters * sizes.tokens_per_byte,
        disk_bytes=RECORD_BYTES + _COPIES * num_texts * characters,
        memory_bytes=held,
        core_seconds=experts * (_SECONDS_TO_LOAD + seconds),
    )
