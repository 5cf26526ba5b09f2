"""The prices of differences, searched weights, merged models and mixtures."""

from mdel_assets.data.text_sizes import Amount
from mdel_assets.line.price import Pace, Price
from mdel_assets.merging.members import members_of
from mdel_assets.training.prices import stored_model
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


def of_mixture(sizes: Sizes, key: str) -> Price | None:
    """Return the price of a mixture whose gates are made of text; None where they are trained."""
    recipe = sizes.experiment.mixtures[key]
    if recipe.router != "domains":
        return None
    named = [d for d in recipe.named_domains(sizes.experiment.domain_keys) if d in sizes.domains]
    model = sizes.model
    num_mlps = len(named) + recipe.general_expert
    weights = model.num_parameters + (num_mlps - 1) * model.num_mlp_parameters
    tokens = float(recipe.router_tokens * num_mlps)
    length = sizes.experiment.evaluation.max_length
    disk = stored_model(sizes, num_parameters=weights) - TRAINING_RECORD_BYTES + RECORD_BYTES
    return Price(
        num_tokens=tokens,
        operations=model.forward(tokens, length=length),
        disk_bytes=disk,
        memory_bytes=4.0 * (model.num_parameters + weights),
        core_seconds=1.0 + weights / _MERGED_PER_SECOND,
        pace=Pace("scoring", length, "float32"),
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
