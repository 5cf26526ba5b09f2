"""The prices of differences, searched weights, merged models and mixtures."""

import dataclasses

from mdel_assets.data.text_sizes import Amount
from mdel_assets.experiment.merge_recipe import MergeRecipe, settings_for
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.price import Pace, Price
from mdel_assets.merging.members import Members, members_of
from mdel_assets.merging.mixture_sizes import mixture_sizes
from mdel_assets.training.prices import of_gate_training, stored_model
from mdel_assets.training.sizes import RECORD_BYTES, TRAINING_RECORD_BYTES, Sizes

# Parameters of one model that a merge, or a pass over task vectors, reads and computes with in a
# second.
_MERGED_PER_SECOND = 8e7
# Parameters of one model that are compared with the seed's in a second: twice four bytes come from
# the system's cache, at some GB/s, and are read once more.
_COMPARED_PER_SECOND = 4e8
# What all threads of a merge hold: pieces of 12 MiB, and as much while these are made.
_PIECES_BYTES = 2.0 * (12 << 20)
# What the differences hold: in eight threads at most pieces of 8 MiB of all models together, those
# before them, and those joined with what is left of these.
_DIFFERENCES_BYTES = 8 * 3.0 * (8 << 20)
# What a mixture's text holds besides the model.
_BLOCK_BYTES = 64e6
_CHART_BYTES = 40_000.0
_DTYPE_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
# The two starting points that the answer is judged against, and itself, on test text.
_NUM_JUDGED = 3
_TEST_SPLITS = ("test_domain", "test_pile")


def of_differences(sizes: Sizes, key: str) -> Price:
    """Return the price of the measured distances of one expert to its seed, and its neighbours.

    All bytes are compared with the seed's; two passes are over what was trained.
    """
    training, model = sizes.experiment.training, sizes.model
    changed = model.trained(training.trained_layers, training.adapter).num_changed
    return Price(
        disk_bytes=RECORD_BYTES + 5_000.0,
        memory_bytes=_DIFFERENCES_BYTES,
        core_seconds=0.1
        + model.num_parameters / _COMPARED_PER_SECOND
        + 2 * changed / _MERGED_PER_SECOND,
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
    num_models = len(list(_members(sizes, key))) + 1
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
    # A matrix of the vocabulary is held whole, and read, for the mean that its padding gets.
    rows = 8.0 * sizes.model.vocab_rows * sizes.model.hidden_size if recipe.vocabulary else 0.0
    return Price(
        disk_bytes=size_of * weights + sizes.beside_weights + RECORD_BYTES,
        memory_bytes=_PIECES_BYTES + rows,
        core_seconds=0.1 + _num_read(sizes, key, weights) / _MERGED_PER_SECOND,
    )


def _num_read(sizes: Sizes, key: str, weights: float) -> float:
    """Return the parameters that a merge into ``weights`` reads, of all its models.

    What all models have from the seed by their records is copied from one of them. The records of
    those count that were trained as experts are.
    """
    recipe, members = sizes.experiment.merges[key], _members(sizes, key)
    count = len(list(members))
    alike = (Family.SEED, Family.DENSE, Family.EXPERT, Family.RANDOM)
    known = all(
        one.name in sizes.experiment.model_keys and any(family.has(one.name) for family in alike)
        for one in members
    )
    if not known or recipe.slices or recipe.vocabulary or not _keeps_equal(recipe, members):
        return count * weights
    training = sizes.experiment.training
    changed = sizes.model.trained(training.trained_layers, training.adapter).num_changed
    return count * changed + (weights - changed)


def _keeps_equal(recipe: MergeRecipe, members: Members) -> bool:
    """Whether tensors stay as they are that all models share: those that no filter names."""
    entries = [(one.name, one.parameters) for one in members.models]
    settings = settings_for(recipe, entries, name="", shape=(), depth=0.0)
    return recipe.method.keeps_equal(settings)


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


def _members(sizes: Sizes, key: str) -> Members:
    experiment = sizes.experiment
    return members_of(
        experiment.merges[key],
        name=key,
        domains=sizes.domains,
        random_numbers=experiment.random_split_keys[: len(sizes.domains)],
    )


def _cut(amount: Amount, num_documents: int, max_bytes: int | None) -> float:
    """Return the bytes of up to so many documents, of each up to so many bytes."""
    if not amount.num_documents:
        return 0.0
    mean = amount.num_bytes / amount.num_documents
    longest = mean if max_bytes is None else min(mean, float(max_bytes))
    return min(amount.num_documents, float(num_documents)) * longest
