"""Rules between the sections of an experiment: names and sizes that must fit each other.

Each rule names the places of the YAML that it reads. If one of these is itself wrong, the rule is
skipped. The rules look only at the experiment.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from mdel_assets.errors import unknown_name_message
from mdel_assets.experiment.evaluation import shares_documents
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import ExpertTraining, Optimization
from mdel_assets.experiment.merge_recipe import MergeRecipe, wrong_number
from mdel_assets.experiment.merged_models import with_adapter
from mdel_assets.experiment.mistakes import sentences
from mdel_assets.experiment.mixtures import mistakes_in_mixtures
from mdel_assets.experiment.model_keys import Family
from mdel_assets.experiment.pretraining_rules import mistakes_in_model
from mdel_assets.experiment.section import name_mistake
from mdel_assets.experiment.trained_layers import layers_mistake
from mdel_assets.model_families.mixture_families import misfit
from mdel_assets.model_families.settings import ModelShape, shape_of

# Entries of a home that are not folders of experiments.
NAMES_OF_THE_HOME = (
    *("cache", "dagster", "wandb", "merges", "maps"),
    *("compute.yaml", "perplexity.jsonl"),
)
_MODELS = "seed, expert:<domain>, expert:*, random:*, merged:<recipe>, a folder, or a Hub id"


def mistakes_between(experiment: Experiment, *, wrong: Iterable[str]) -> Iterator[str]:
    """Yield each mismatch between sections; rules that read a place in ``wrong`` are skipped."""
    wrong = list(wrong)
    for places, rule in _RULES:
        if not any(_meet(place, other) for place in places for other in wrong):
            yield from rule(experiment)


def mistakes_of_training(experiment: Experiment, seed: ModelShape) -> Iterator[str]:
    """Yield the settings with which a seed model of this shape cannot be trained."""
    limit, num_layers = seed.max_positions, seed.num_layers
    for place, training in _trainings(experiment):
        if limit and training.block_size > limit:
            yield (
                f"{place}.block_size is {training.block_size}, but the seed model reads at most "
                f"{limit} tokens: lower it to {limit}"
            )
        layers = training.trained_layers if isinstance(training, ExpertTraining) else "all"
        is_known = num_layers is not None and layers != "all"
        if mistake := layers_mistake(layers, num_layers=num_layers) if is_known else None:
            yield f"{place}.trained_layers: {mistake}"


def mistakes_of_scoring(experiment: Experiment, seed: ModelShape) -> Iterator[str]:
    """Yield the settings with which models of this shape cannot be scored."""
    limit, max_length = seed.max_positions, experiment.evaluation.max_length
    if limit and max_length > limit:
        yield (
            f"evaluation.max_length is {max_length}, but the seed model reads at most {limit} "
            f"tokens: lower it to {limit}"
        )


def mistakes_of_mixing(experiment: Experiment, seed: Mapping[str, Any]) -> Iterator[str]:
    """Yield why experts of a seed of this configuration cannot be mixed, where they are to be."""
    if experiment.mixtures and (mistake := misfit(seed)):
        yield f"mixtures: {mistake}"


def _trainings(experiment: Experiment) -> Iterator[tuple[str, Optimization]]:
    if experiment.seed_model.pretrain:
        yield "seed_model.pretrain", experiment.seed_model.pretrain
    yield "training", experiment.training
    for name, variant in experiment.variants.items():
        if variant.training.keys() & {"block_size", "trained_layers"}:
            # A model with an impossible configuration is reported elsewhere.
            with contextlib.suppress(ValidationError):
                yield f"variants.{name}.training", experiment.variant_training(name)


def _meet(place: str, other: str) -> bool:
    return f"{place}.".startswith(f"{other}.") or f"{other}.".startswith(f"{place}.")


def _name(experiment: Experiment) -> Iterator[str]:
    name = experiment.name
    if mistake := name_mistake(name):
        yield f"name: {mistake}"
    elif name.lower() in NAMES_OF_THE_HOME:
        yield f"name: '{name}' is reserved: MDEL_HOME has its own '{name.lower()}'. Choose another"


def _names(experiment: Experiment) -> Iterator[str]:
    named: dict[str, Mapping[str, Any]] = {
        "merges": experiment.merges,
        "mixtures": experiment.mixtures,
        "variants": experiment.variants,
        "evaluation.references": experiment.evaluation.references,
    }
    for section, names in named.items():
        for name in names:
            if mistake := name_mistake(name):
                yield f"{section}: {mistake}"
        for one, other in _alike(names):
            yield (
                f"{section}: '{one}' and '{other}' differ only in case, and would share a folder "
                f"on many disks. Rename one"
            )


def _alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for name in names:
        known = first.setdefault(name.lower(), name)
        if known != name:
            yield known, name


def _domains(experiment: Experiment) -> Iterator[str]:
    if not experiment.domain_table:
        yield "domains: the list is empty. Write 'pile', list domains, or use {clusters: 8}"
    labels = [label for d in experiment.domain_table for label in (d.name, *d.aliases)]
    for what, names in (("domain key", experiment.domain_keys), ("domain label", labels)):
        for name in _repeated(names):
            yield f"domains: the {what} '{name}' occurs twice"


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _source(experiment: Experiment) -> Iterator[str]:
    source, is_labelled = experiment.source, experiment.clusters is None
    if source.layout == "columns" and is_labelled and not source.domain_field:
        yield (
            "source: layout 'columns' needs 'domain_field', the column of a record's domain; to "
            "find domains without labels, use 'domains: {clusters: 8}'"
        )
    if source.domain_field == source.text_field:
        yield "source.text_field and source.domain_field are the same field"
    places = {
        "validation": [source.validation] if source.validation else [],
        "test": [source.test] if source.test else [],
    }
    for role, (place,) in ((role, found) for role, found in places.items() if found):
        if place in source.train:
            yield (
                f"source.{role} is '{place}', which is also in source.train: every document would "
                f"be in both. Give another file, or leave source.{role} out: then documents of the "
                f"training shards are held out"
            )


def _splits(experiment: Experiment) -> Iterator[str]:
    for split in _repeated(experiment.evaluation.splits):
        yield f"evaluation.splits: '{split}' occurs twice"


def _judged_split(experiment: Experiment) -> Iterator[str]:
    first = experiment.evaluation.splits[0]
    if first in _splits_without_text(experiment):
        yield (
            f"evaluation.splits: models are judged on the first one, '{first}', but it holds no "
            f"text, because mixture.general_ratio is 0. Put a split of text of the own domain "
            f"first, such as '{first.replace('_pile', '_domain')}', or set general_ratio"
        )


def notes_on_splits(experiment: Experiment) -> list[str]:
    """Return a note on each split without text."""
    return [
        f"evaluation.splits: '{split}' holds no text, because mixture.general_ratio is 0"
        for split in _splits_without_text(experiment)
    ]


def _splits_without_text(experiment: Experiment) -> list[str]:
    if experiment.mixture.general_ratio:
        return []
    return [split for split in experiment.evaluation.splits if shares_documents(split)]


def _tasks(experiment: Experiment) -> Iterator[str]:
    for task in _repeated(experiment.evaluation.tasks):
        yield f"evaluation.tasks: '{task}' occurs twice"


def _variants(experiment: Experiment) -> Iterator[str]:
    for name, variant in experiment.variants.items():
        if variant.domain not in experiment.domain_keys:
            told = unknown_name_message("domain", variant.domain, experiment.domain_keys)
            yield f"variants.{name}: {told}"


def _variant_trainings(experiment: Experiment) -> Iterator[str]:
    for name in experiment.variants:
        try:
            experiment.variant_training(name)
        except ValidationError as error:
            yield from sentences(error, ExpertTraining, within=("variants", name, "training"))


def _recipes(experiment: Experiment) -> Iterator[str]:
    for name, recipe in experiment.merges.items():
        for model in dict.fromkeys(recipe.model_names):
            if mistake := _model_mistake(experiment, model):
                yield f"merges.{name}: {mistake}"
        for mistake in (*_number_mistakes(recipe), *_stage_mistakes(experiment, name)):
            yield f"merges.{name}: {mistake}"


def _model_mistake(experiment: Experiment, model: str) -> str | None:
    """Return why a recipe cannot use a model of this name; None if it can."""
    model, adapter = experiment.adapter_of(model)
    if adapter is not None:
        return _model_mistake(experiment, model) or _adapter_mistake(experiment, model, adapter)
    family, _, key = model.partition(":")
    made = [*Family.MERGED.keys(experiment.merges), *Family.MIXTURE.keys(experiment.mixtures)]
    own = set(experiment.model_keys) - set(made)
    is_outside = "/" in model or model.startswith((".", "~"))
    if is_outside or model in ("expert:*", *own):
        return None
    if model == "random:*":
        is_there = experiment.baselines.random_split
        return None if is_there else "it uses 'random:*', so set baselines.random_split: true"
    if family == "expert" and key:
        known = key in experiment.domain_keys
        return None if known else unknown_name_message("domain", key, experiment.domain_keys)
    if Family.MIXTURE.has(model) and model in experiment.model_keys:
        return f"'{model}' is a mixture, which has other tensors. List its experts instead"
    if family == "merged" and key in experiment.merges:
        return None
    if (name := model.removeprefix("merged-")) in experiment.merges:
        return f"'{model}' is made by another recipe. Write 'merged:{name}' to merge that one first"
    if experiment.folder and experiment.place_of_model(model) != model:
        return None
    return f"'{model}' does not name a model. Expected {_MODELS}"


def _adapter_mistake(experiment: Experiment, model: str, adapter: str) -> str | None:
    """Return why a recipe cannot merge this adapter into this model; None if it can."""
    if model.endswith(":*") or model.startswith("merged:"):
        return (
            f"'{with_adapter(model, adapter)}': an adapter is merged into one model that is there "
            f"already. Name one, such as seed or expert:<domain>"
        )
    if "/" in adapter or adapter.startswith("~") or experiment.place_of_model(adapter) != adapter:
        return None
    return f"'{adapter}' does not name an adapter. Expected a folder, or a Hub id OWNER/NAME"


def _stage_mistakes(experiment: Experiment, name: str) -> Iterator[str]:
    """Yield why a recipe cannot take what other recipes make."""

    def stages(recipe: str) -> list[str]:
        named = experiment.merges[recipe].model_names
        found = [model.removeprefix("merged:") for model in named if model.startswith("merged:")]
        return [stage for stage in dict.fromkeys(found) if stage in experiment.merges]

    if experiment.merges[name].mdel.search and stages(name):
        yield (
            f"mdel.search takes experts, seed and folders, not 'merged:{stages(name)[0]}'. List "
            f"the models of that recipe, or give the weights"
        )
    seen: list[str] = []
    waiting = stages(name)
    while waiting:
        stage = waiting.pop()
        if stage == name:
            yield f"it is made from itself, through 'merged:{(seen or [name])[-1]}'. Take one out"
            return
        if stage not in seen:
            seen.append(stage)
            waiting += stages(stage)


def _number_mistakes(recipe: MergeRecipe) -> Iterator[str]:
    for group in recipe.groups:
        if any(name.endswith(":*") for name in group.names):
            continue
        if mistake := wrong_number(recipe, group.names, base=group.base):
            yield mistake


def _mixtures(experiment: Experiment) -> Iterator[str]:
    yield from mistakes_in_mixtures(
        experiment.mixtures,
        domains=experiment.domain_keys,
        trained_layers=experiment.training.trained_layers,
    )


def _mixed_family(experiment: Experiment) -> Iterator[str]:
    pretrain = experiment.seed_model.pretrain
    if pretrain and not any(mistakes_in_model(pretrain.model)):
        yield from mistakes_of_mixing(experiment, pretrain.model)


def _pretraining(experiment: Experiment) -> Iterator[str]:
    if pretrain := experiment.seed_model.pretrain:
        for mistake in mistakes_in_model(pretrain.model):
            yield f"seed_model.pretrain.model: {mistake}"


def _trained_sizes(experiment: Experiment) -> Iterator[str]:
    yield from mistakes_of_training(experiment, _shape_to_be(experiment))


def _scored_sizes(experiment: Experiment) -> Iterator[str]:
    yield from mistakes_of_scoring(experiment, _shape_to_be(experiment))


def _shape_to_be(experiment: Experiment) -> ModelShape:
    """Return the shape of a seed model that will be pretrained; any other shape is unknown."""
    pretrain = experiment.seed_model.pretrain
    if pretrain is None or any(mistakes_in_model(pretrain.model)):
        return ModelShape(None, None)
    return shape_of(pretrain.model)


_RULES: tuple[tuple[tuple[str, ...], Callable[[Experiment], Iterator[str]]], ...] = (
    (("name",), _name),
    (("evaluation.references",), _names),
    (("domains",), _domains),
    (("source", "domains"), _source),
    (("evaluation.splits",), _splits),
    (("evaluation.splits", "mixture"), _judged_split),
    (("evaluation.tasks",), _tasks),
    (("domains",), _variants),
    (("training.trained_layers",), _variant_trainings),
    (("domains", "baselines"), _recipes),
    (("domains", "training.trained_layers"), _mixtures),
    (("seed_model",), _mixed_family),
    (("seed_model",), _pretraining),
    (("seed_model", "training.trained_layers", "training.block_size"), _trained_sizes),
    (("seed_model", "evaluation.max_length"), _scored_sizes),
)
