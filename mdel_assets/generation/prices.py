"""The price of sample texts."""

import math

from mdel_assets.evaluation.judged_models import JudgedModel, judged_model
from mdel_assets.evaluation.prices import kept_bytes_per_weight
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.line.price import Pace, Price
from mdel_assets.training.sizes import RECORD_BYTES, Sizes

# A model is loaded and tried in so many seconds, and its weights at so many bytes in a second.
_SECONDS_TO_LOAD, _BYTES_LOADED_PER_SECOND = 0.2, 5.4e8
# A step takes a part of its own, and reads weights; those in half precision are widened first.
_SECONDS_PER_STEP, _BYTES_PER_SECOND, _WIDENING = 2.8e-3, 9e9, 1.6
# A token is drawn from the sorted vocabulary.
_SECONDS_PER_WORD = 2.4e-8
_TEXTS_PER_STEP, _CACHE_BYTES = 32, 512 << 20
# Keys and values have room to grow, and are copied where texts of several lengths come together.
_CACHE_COPIES = 1.3
# Logits and their logarithms, of a pass over prompts.
_LOGITS, _TOKENS_PER_PASS = 16 << 20, 512
# Prompt, true text and continuation, as JSON and as Markdown.
_COPIES = 2.3


def of_samples(sizes: Sizes, key: str) -> Price:
    """Return the price of one model's texts, or of all experts'.

    A step computes what its tokens need, and reads every weight for them.
    """
    from mdel_assets.generation.beginnings import CHARACTERS_PER_TOKEN

    settings, judged = sizes.experiment.evaluation.sample_texts, judged_model(sizes, key)
    num_texts = settings.num_documents * len(sizes.domains)
    of_following = CHARACTERS_PER_TOKEN * settings.max_new_tokens
    prompt = settings.prompt_characters * judged.tokens_per_byte
    # A prompt is read twice: to be continued, and before the true text.
    num_read = num_texts * (2 * prompt + of_following * judged.tokens_per_byte)
    num_tokens = num_read + num_texts * settings.max_new_tokens
    length = max(2, round(prompt + settings.max_new_tokens))
    is_posterior = key == POSTERIOR
    experts = max(1, len(sizes.domains)) if is_posterior else 1
    model = judged.model
    of_a_text = 2 * 4.0 * model.cache_width * length * _num_cached_layers(judged, experts)
    together = max(1, min(_TEXTS_PER_STEP, num_texts, int(_CACHE_BYTES // of_a_text)))
    # All experts together are kept as they are stored.
    stored = kept_bytes_per_weight(sizes, key) if is_posterior else 4.0
    held = stored * judged.num_parameters
    if is_posterior:
        training = sizes.experiment.training
        trained = model.trained(training.trained_layers, training.adapter)
        held += stored * experts * trained.num_changed
    logits = 3 * 4.0 * min(_LOGITS, _TOKENS_PER_PASS * model.vocab_rows)
    seconds = seconds_to_write(
        num_texts,
        settings.max_new_tokens,
        num_read_weights=_num_read_weights(judged, experts) * (_WIDENING if stored < 4 else 1.0),
        vocab_rows=model.vocab_rows,
        at_once=together,
    )
    return Price(
        num_tokens=num_tokens,
        operations=experts * judged.forward(num_tokens, length=length, num_together=experts),
        disk_bytes=RECORD_BYTES
        + _COPIES * num_texts * (settings.prompt_characters + 2 * of_following),
        memory_bytes=held + _CACHE_COPIES * together * of_a_text + logits,
        core_seconds=experts * seconds_to_load(judged.num_parameters) + seconds,
        pace=Pace("scoring", sizes.experiment.evaluation.max_length, "float32"),
        config=judged.config,
    )


def _num_cached_layers(judged: JudgedModel, experts: int) -> float:
    """Return how many layers keep keys and values of a text."""
    layers = judged.model.num_layers
    return float(layers + (experts - 1) * (layers - judged.num_shared))


def _num_read_weights(judged: JudgedModel, experts: int) -> float:
    """Return how many weights a step reads: those that compute, of what experts share each once."""
    of_a_token = judged.forward(1, length=2, num_together=experts) / 2
    head = judged.model.vocab_rows * judged.model.hidden_size
    return experts * of_a_token - (experts - 1) * head


def seconds_to_load(num_parameters: float) -> float:
    """Return how long a model takes until it can continue texts."""
    return _SECONDS_TO_LOAD + 4.0 * num_parameters / _BYTES_LOADED_PER_SECOND


def seconds_to_write(
    num_texts: float,
    num_tokens: float,
    *,
    num_read_weights: float,
    vocab_rows: int,
    at_once: int = _TEXTS_PER_STEP,
) -> float:
    """Return how long a model writes that many texts, each of so many tokens, besides computing."""
    steps = num_tokens * math.ceil(num_texts / at_once)
    of_a_step = _SECONDS_PER_STEP + 4.0 * num_read_weights / _BYTES_PER_SECOND
    return steps * of_a_step + num_texts * num_tokens * _SECONDS_PER_WORD * vocab_rows
