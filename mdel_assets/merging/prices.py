"""The prices of differences, searched weights, merged models and mixtures."""

import dataclasses

from mdel_assets.data.text_sizes import Amount
from mdel_assets.line.price import Pace, Price
from mdel_assets.merging.members import members_of
from mdel_assets.merging.mixture_sizes import mixture_sizes
from mdel_assets.training.prices import of_gate_training, stored_model
from mdel_assets.training.sizes import RECORD_BYTES, TRAINING_RECORD_BYTES, Sizes

# Parameters of one model that a merge reads, computes with and writes in a second.
_MERGED_PER_SECOND = 8e7
# What a merge holds of each model at a time, in fp32.
_BLOCK_BYTES = 64e6
_CHART_BYTES = 40_000.0
_DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
# The two starting points that the answer is judged against, and itself, on test text.
_NUM_JUDGED = 3
_TEST_SPLITS = ("test_domain", "test_pile")


def of_differences(sizes: Sizes, key: str) -> Price:
    """Return the price of the measured distances of one expert to its seed, and its neighbours."""
    read = sizes.model.num_parameters * 2
    return Price(
        disk_bytes=RECORD_BYTES + 5_000.0,
        memory_bytes=2 * _BLOCK_BYTES,
        core_seconds=0.1 + read / _MERGED_PER_SECOND,
    )


def of_search(sizes: Sizes, key: str) -> Price:
    """Return the price of a search for weights: its trials, and the verdict on test text."""
    experiment, model = sizes.experiment, sizes.model
    search = experiment.merges[key].mdel.search
    assert search
    length = experiment.evaluation.max_length
    tried = judged = 0.0
    for splits in sizes.text.datasets.values():
        held_out = splits["validation_domain"]
        tried += _cut(held_out, search.num_documents, search.max_characters)
        for name in _TEST_SPLITS:
            judged += _cut(splits[name], search.num_test_documents, search.max_test_characters)
    first = model.trained(experiment.training.trained_layers).first
    tokens = sizes.tokens_per_byte * tried
    judged_tokens = sizes.tokens_per_byte * judged * _NUM_JUDGED
    operations = model.forward(tokens, length=length)
    operations += (search.num_trials - 1) * model.forward(tokens, length=length, first=first)
    operations += model.forward(judged_tokens, length=length)
    num_models = _num_members(sizes, key) + 1
    weights = sizes.model.num_parameters
    return Price(
        num_tokens=search.num_trials * tokens + judged_tokens,
        operations=operations,
        disk_bytes=RECORD_BYTES + _CHART_BYTES + 400.0 * search.num_trials,
        memory_bytes=4.0 * weights * (num_models + 1),
        core_seconds=1.5 + search.num_trials * num_models * weights / _MERGED_PER_SECOND,
        pace=Pace("scoring", length, experiment.evaluation.dtype),
    )


def of_merge(sizes: Sizes, key: str) -> Price:
    """Return the price of one merged model: a whole one, whatever its members' form."""
    recipe = sizes.experiment.merges[key]
    weights = float(sizes.model.num_parameters)
    if recipe.slices:
        num_layers, count = sizes.model.num_layers, sum(part.num_layers for part in recipe.slices)
        weights += (count - num_layers) * sizes.model.trained((0,)).num_trained
    size_of = _DTYPE_BYTES.get(recipe.dtype_of_output or "", sizes.bytes_per_parameter)
    count = _num_members(sizes, key)
    disk = size_of * weights + sizes.beside_weights + RECORD_BYTES
    return Price(
        disk_bytes=disk,
        memory_bytes=(count + 2) * min(_BLOCK_BYTES, 4.0 * weights),
        core_seconds=0.1 + count * weights / _MERGED_PER_SECOND,
    )


def of_mixture(sizes: Sizes, key: str) -> Price:
    """Return the price of a mixture: of the text that its gates are made of, and their training.

    It is taken to compute at the seed's pace.
    """
    recipe, model = sizes.experiment.mixtures[key], sizes.model
    mixture = mixture_sizes(sizes, key)
    weights = mixture.num_parameters
    num_read = len(sizes.domains) if recipe.general_expert else mixture.num_experts
    tokens = float(recipe.router_tokens * num_read)
    length = sizes.experiment.training.block_size
    disk = stored_model(sizes, num_parameters=weights) - TRAINING_RECORD_BYTES + RECORD_BYTES
    made = Price(
        num_tokens=tokens,
        operations=model.below(tokens, length=length, first=model.num_layers),
        disk_bytes=disk,
        memory_bytes=4.0 * model.num_parameters + _BLOCK_BYTES,
        core_seconds=1.0 + weights / _MERGED_PER_SECOND,
        pace=Pace("scoring", length, "float32"),
    )
    return made if recipe.router == "domains" else _with_trained_gates(sizes, key, made)


def _with_trained_gates(sizes: Sizes, key: str, made: Price) -> Price:
    """Return the price of a mixture as ``made`` from text, whose gates are trained then."""
    mixture, model = mixture_sizes(sizes, key), sizes.model
    gates = mixture.gate_training()
    settings = sizes.experiment.training.model_copy(
        update={
            "max_steps": sizes.experiment.mixtures[key].training.num_steps,
            "num_epochs": None,
            "adapter": None,
        }
    )
    price = of_gate_training(sizes, settings, gates)
    more = price.num_tokens * mixture.more_per_trained_token
    memory = price.memory_bytes + 4.0 * (mixture.num_parameters - model.num_parameters)
    return dataclasses.replace(
        price,
        num_tokens=made.num_tokens + price.num_tokens,
        operations=made.operations + price.operations + more,
        disk_bytes=made.disk_bytes + TRAINING_RECORD_BYTES - RECORD_BYTES,
        memory_bytes=max(made.memory_bytes, memory),
        core_seconds=made.core_seconds + price.core_seconds,
    )


def _num_members(sizes: Sizes, key: str) -> int:
    experiment = sizes.experiment
    members = members_of(
        experiment.merges[key],
        name=key,
        domains=sizes.domains,
        random_numbers=experiment.random_split_keys[: len(sizes.domains)],
    )
    return len(list(members))


def _cut(amount: Amount, num_documents: int, max_bytes: int | None) -> float:
    """Return the bytes of up to so many documents, of each up to so many bytes."""
    if not amount.num_documents:
        return 0.0
    mean = amount.num_bytes / amount.num_documents
    longest = mean if max_bytes is None else min(mean, float(max_bytes))
    return min(amount.num_documents, float(num_documents)) * longest
