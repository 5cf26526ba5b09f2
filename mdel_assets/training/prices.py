"""The prices of models: of the seed, of experts and of what is trained like them."""

import dataclasses
from typing import Literal

from mdel_assets.experiment.fields import Optimization
from mdel_assets.line.price import FETCHED_PER_SECOND, Pace, Price
from mdel_assets.training.model_sizes import ModelSizes, TrainedLayers, Training
from mdel_assets.training.sizes import RECORD_BYTES, TRAINING_RECORD_BYTES, Sizes

# What a training reads: a seed and baselines have one validation split, which is of all domains.
_Reads = Literal["own text", "a dataset", "all datasets"]
_VALIDATION_SPLITS: dict[_Reads, tuple[str, ...]] = {
    "own text": ("validation_domain",),
    "a dataset": ("validation_domain", "validation_pile"),
    "all datasets": ("validation_domain",),
}
# Bytes of text that a tokenizer takes in a second, when one core has it and a large vocabulary.
_TOKENIZED_PER_SECOND = 2.5e6
# Loading the model, the Trainer's beginning, checks and digests.
_SECONDS_PER_TRAINING = 1.5
# A digest and a copy of a stored byte.
_SECONDS_PER_STORED_BYTE = 1 / 5e8
# fp32: a weight, its gradient, and two moments.
_WEIGHT, _GRADIENT, _MOMENTS = 4.0, 4.0, 8.0
# The logits of a slice at most, as `fused_loss` has them on a processor, and what is rounded.
_LOGITS, _ROUNDED = 48 << 20, 3 << 20


def of_seed(sizes: Sizes, key: str) -> Price:
    """Return the price of the seed: pretrained, or adopted as it is."""
    pretrain = sizes.experiment.seed_model.pretrain
    disk = stored_model(sizes)
    if pretrain is None:
        return _adopted(sizes.model, disk, has_to_be_fetched=sizes.seed_has_to_be_fetched)
    there = _all_tokens(sizes, pretrain, own=True)
    return _trained(sizes, pretrain, None, disk_bytes=disk, num_tokens_there=there)


def of_reference(sizes: Sizes, key: str) -> Price:
    """Return the price of a model to compare with, which is adopted as it is."""
    source = sizes.reference(key)
    disk = source.bytes_per_parameter * source.model.num_parameters + source.beside_weights
    return _adopted(source.model, disk + RECORD_BYTES, has_to_be_fetched=source.has_to_be_fetched)


def _adopted(model: ModelSizes, disk_bytes: float, *, has_to_be_fetched: bool) -> Price:
    fetched = disk_bytes / FETCHED_PER_SECOND if has_to_be_fetched else 0.0
    return Price(
        disk_bytes=disk_bytes,
        memory_bytes=_WEIGHT * model.num_parameters,
        core_seconds=4 * _SECONDS_PER_STORED_BYTE * disk_bytes,
        network_seconds=fetched,
    )


def of_expert(sizes: Sizes, key: str) -> Price:
    """Return the price of a domain's expert."""
    settings = sizes.experiment.training
    return of_training(sizes, settings, num_tokens_there=tokens_of(sizes, key, settings))


def of_variant(sizes: Sizes, key: str) -> Price:
    """Return the price of an expert of the sweep."""
    variant = sizes.experiment.variants[key]
    settings = sizes.experiment.variant_training(key)
    there = tokens_of(sizes, variant.domain, settings, own=variant.text == "domain")
    return of_training(sizes, settings, num_tokens_there=there)


def of_one_share(sizes: Sizes, key: str) -> Price:
    """Return the price of what reads as much as one expert, of all datasets."""
    return _of_baseline(sizes, num_experts=1)


def of_dense(sizes: Sizes, key: str) -> Price:
    """Return the price of the baseline that reads as much as all experts together."""
    return _of_baseline(sizes, num_experts=max(1, len(sizes.domains)))


def _of_baseline(sizes: Sizes, *, num_experts: int) -> Price:
    """Return the price of a training on all datasets that reads as much as ``num_experts``."""
    settings = sizes.experiment.training
    there = _all_tokens(sizes, settings)
    price = of_training(
        sizes,
        settings,
        num_tokens_there=there / max(1, len(sizes.domains)),
        num_experts=num_experts,
        reads="all datasets",
    )
    if settings.num_epochs is None:
        return price
    # How long an epoch is, the text of all datasets has to tell.
    counting = there / sizes.tokens_per_byte / _TOKENIZED_PER_SECOND
    return dataclasses.replace(price, core_seconds=price.core_seconds + counting)


def stored_model(sizes: Sizes, *, num_parameters: float | None = None) -> float:
    """Return the bytes of a model's folder; of a whole one, if ``num_parameters`` is not given."""
    stored = sizes.model.num_parameters if num_parameters is None else num_parameters
    return sizes.bytes_per_parameter * stored + sizes.beside_weights + TRAINING_RECORD_BYTES


def tokens_of(sizes: Sizes, domain: str, settings: Optimization, *, own: bool = False) -> float:
    """Return about how many tokens a training with ``settings`` has of a domain's text.

    It has ``max_train_documents`` of them at most, and with ``own`` only those of the domain
    itself; none of an absent domain.
    """
    splits = (sizes.text.own if own else sizes.text.datasets).get(domain)
    if not splits:
        return 0.0
    train, most = splits["train"], settings.max_train_documents
    share = 1.0 if most is None else min(1.0, most / max(1.0, train.num_documents))
    return share * train.num_bytes * sizes.tokens_per_byte


def _all_tokens(sizes: Sizes, settings: Optimization, *, own: bool = False) -> float:
    return sum(tokens_of(sizes, domain, settings, own=own) for domain in sizes.domains)


def of_training(
    sizes: Sizes,
    settings: Optimization,
    *,
    num_tokens_there: float,
    num_experts: int = 1,
    reads: _Reads = "a dataset",
) -> Price:
    """Return the price of a training like an expert's; ``num_tokens_there`` is its share of text.

    It reads as much as ``num_experts`` experts with these settings.
    """
    layers: TrainedLayers = getattr(settings, "trained_layers", "all")
    is_delta = getattr(settings, "store", "full") == "delta"
    trained = sizes.model.trained(layers, getattr(settings, "adapter", None))
    disk = stored_model(sizes, num_parameters=trained.num_changed if is_delta else None)
    if trained.has_adapters:
        disk += _WEIGHT * trained.num_trained
    return _trained(
        sizes,
        settings,
        layers,
        disk_bytes=disk,
        num_tokens_there=num_tokens_there,
        num_experts=num_experts,
        reads=reads,
    )


def of_gate_training(sizes: Sizes, settings: Optimization, gates: Training) -> Price:
    """Return the price of training the ``gates`` of a mixture, as far as it is the seed's work."""
    model, length = sizes.model, settings.block_size
    num_tokens = float(settings.num_steps * settings.batch_size * length)
    rows = settings.micro_batch_size or settings.batch_size
    step = model.step(settings.batch_size, length=length, trained=gates)
    return Price(
        num_tokens=num_tokens,
        operations=settings.num_steps * step,
        memory_bytes=training_memory(model, settings, gates, num_rows=rows),
        core_seconds=_SECONDS_PER_TRAINING
        + num_tokens / sizes.tokens_per_byte / _TOKENIZED_PER_SECOND,
        pace=_pace(settings, rows, None),
    )


def _trained(
    sizes: Sizes,
    settings: Optimization,
    layers: TrainedLayers,
    *,
    disk_bytes: float,
    num_tokens_there: float,
    num_experts: int = 1,
    reads: _Reads = "own text",
) -> Price:
    """Return a training's price; ``num_tokens_there`` is an expert's share of the text."""
    model, length = sizes.model, settings.block_size
    step_tokens = settings.batch_size * length
    if settings.num_epochs is None:
        num_steps = float(max(1, round(settings.num_tokens_read * num_experts / step_tokens)))
    else:
        read = settings.num_epochs * num_tokens_there * num_experts
        num_steps = float(max(1, round(read / step_tokens)))
    num_tokens = num_steps * step_tokens
    trained = model.trained(layers, getattr(settings, "adapter", None))
    operations = num_steps * model.step(settings.batch_size, length=length, trained=trained)
    there = num_experts * num_tokens_there
    rereads = reads != "all datasets" and num_tokens > there > 0
    if trained.first and settings.cache_prefix and not sizes.is_on_gpu and rereads:
        # Later epochs read the states of the layers below from a file. A baseline's have blocks of
        # their own, because each dataset's text begins anew at another place.
        again = num_tokens - there
        operations -= model.below(again, length=length, first=trained.first)
    if settings.gradient_checkpointing:
        operations += model.below(num_tokens, length=length, first=model.num_layers)
    operations += _held_out(sizes, settings, trained, num_steps=num_steps, reads=reads)
    rows = settings.micro_batch_size or settings.batch_size
    text = min(num_tokens, there or num_tokens) / sizes.tokens_per_byte
    if layers is None:
        # A tokenizer is trained first.
        text *= 2
    return Price(
        num_tokens=num_tokens,
        operations=operations,
        disk_bytes=disk_bytes,
        memory_bytes=training_memory(model, settings, trained, num_rows=rows),
        core_seconds=_SECONDS_PER_TRAINING
        + text / _TOKENIZED_PER_SECOND
        + 2 * _SECONDS_PER_STORED_BYTE * disk_bytes,
        pace=_pace(settings, rows, layers),
    )


def _pace(settings: Optimization, rows: int, layers: TrainedLayers) -> Pace:
    return Pace(
        "training",
        settings.block_size,
        settings.dtype,
        num_rows=rows,
        num_passes=settings.batch_size // rows,
        trained_layers=layers,
    )


def _held_out(
    sizes: Sizes, settings: Optimization, trained: Training, *, num_steps: float, reads: _Reads
) -> float:
    """Return the operations of the losses of held-out blocks: before, after and in between.

    A seed has only those after.
    """
    num_tokens = 0.0
    for name in _VALIDATION_SPLITS[reads]:
        held = sum(sizes.text.datasets[domain][name].num_bytes for domain in sizes.domains)
        if reads == "a dataset":
            held /= max(1, len(sizes.domains))
        blocks = held * sizes.tokens_per_byte // settings.block_size
        num_tokens += min(float(settings.num_validation_blocks), blocks) * settings.block_size
    whole = sizes.model.forward(num_tokens, length=settings.block_size)
    if reads == "own text":
        return whole
    again = sizes.model.forward(num_tokens, length=settings.block_size, first=trained.first)
    num_evaluations = num_steps // settings.eval_steps if settings.eval_steps else 0.0
    return whole * (1.0 + num_evaluations) + again


def training_memory(
    model: ModelSizes, settings: Optimization, trained: Training, *, num_rows: int
) -> float:
    """Return the peak of a training's memory in bytes, besides libraries, on a processor."""
    length, width = settings.block_size, model.hidden_size
    count = num_rows * length
    states = 4.0 * count * width
    layers = model.num_layers - trained.first
    saved = num_rows * model.saved_bytes_per_layer(length)
    activations = layers * saved
    if settings.gradient_checkpointing:
        activations = (layers - 1) * states + saved
    logits = 4.0 * (min(count * model.vocab_rows, _LOGITS) + 2 * _ROUNDED)
    weights = _WEIGHT * (model.num_parameters + trained.num_trained * trained.has_adapters)
    moving: float = (_GRADIENT + _MOMENTS) * trained.num_trained
    # The output layer's weights get their gradient a second time, while it is summed.
    head = 4.0 * width * model.vocab_rows if model.trains_head(trained) else 0.0
    return float(weights + moving + activations + logits + 3 * states + head)
