"""The kinds of artifact that tell experts apart and make one model of several."""

from collections.abc import Iterator, Sequence
from typing import Any

from mdel_assets.data.kinds import absent_domains, datasets, domain_keys
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.merged_models import with_adapter
from mdel_assets.experiment.model_keys import Family
from mdel_assets.line.kind import Input, Kind, by_inputs, model_input
from mdel_assets.line.lineage import Lineage, present
from mdel_assets.merging import prices, search_step, steps
from mdel_assets.merging.members import members_of, recipe_config, stage_of
from mdel_assets.merging.mixtures import step as mixing
from mdel_assets.merging.outside_models import outside_digest
from mdel_assets.merging.recipe_members import recipe_members
from mdel_assets.store.artifacts import Artifact
from mdel_assets.training.kinds import KINDS as TRAINED
from mdel_assets.training.kinds import SEED


def recipe_names(experiment: Experiment) -> Sequence[str]:
    """The names of the experiment's recipes."""
    return list(experiment.merges)


def searched_recipes(experiment: Experiment) -> Sequence[str]:
    """The names of the recipes whose weights are searched."""
    return experiment.searched_recipes


def mixture_names(experiment: Experiment) -> Sequence[str]:
    """The names of the experiment's mixtures."""
    return list(experiment.mixtures)


def _experts_and_text(experiment: Experiment, key: str) -> list[Input]:
    """Return the seed, the experts of a mixture, and the datasets that its gates are made of."""
    recipe = experiment.mixtures[key]
    mixed = recipe.named_domains(experiment.domain_keys)
    read = [entry for entry in datasets(experiment) if recipe.reads_all or entry.key in mixed]
    return [SEED, *(Input("expert_model", domain) for domain in mixed), *read]


def _models(experiment: Experiment, key: str) -> list[Input]:
    """Return the seed and those models of the experiment that a recipe names, in all its stages."""
    return list(dict.fromkeys([SEED, *_named_models(experiment, key)]))


def _named_models(experiment: Experiment, key: str) -> Iterator[Input]:
    members = members_of(
        experiment.merges[key],
        name=key,
        domains=experiment.domain_keys,
        random_numbers=experiment.random_split_keys,
    )
    known = set(experiment.model_keys)
    for member in members:
        if stage := stage_of(member.name):
            yield from _named_models(experiment, stage)
            if stage in experiment.searched_recipes:
                yield Input("searched_merge", stage)
        elif (own := experiment.adapter_of(member.name)[0]) in known:
            yield model_input(TRAINED, own)


def _models_and_weights(experiment: Experiment, key: str) -> list[Input]:
    is_searched = key in experiment.searched_recipes
    weights = [Input("searched_merge", key)] if is_searched else []
    return [*_models(experiment, key), *weights]


def _models_and_datasets(experiment: Experiment, key: str) -> list[Input]:
    return [*_models(experiment, key), *datasets(experiment)]


def _seed_and_experts(experiment: Experiment, key: str) -> list[Input]:
    return [SEED, *(Input("expert_model", domain) for domain in experiment.domain_keys)]


def _recipe(lineage: Lineage, key: str, *, before: Artifact) -> dict[str, Any]:
    """Return a recipe with its models; ``before`` is what was made by it last."""
    experiment, members = lineage.experiment, recipe_members(lineage, key)
    known, last = set(experiment.model_keys), before.last_record()
    place, notes = experiment.place_of_model, lineage.root / "work" / "verified"
    recipe = experiment.merges[key]

    def digest(name: str | None) -> Any:
        if name is None or name in known:
            return name
        return outside_digest(
            place(name), before=last, notes=notes, with_tokenizer=recipe.reads_tokenizers
        )

    digests = {
        member.name: with_adapter(*map(digest, experiment.adapter_of(member.name)))
        for member in members
        if member.name not in known and not stage_of(member.name)
    }
    config = recipe_config(recipe, members, digests=digests)
    named = [stage for member in members if (stage := stage_of(member.name))]
    stages = {stage: _recipe(lineage, stage, before=before) for stage in named}
    return config | ({"stages": stages} if stages else {})


def _merging(lineage: Lineage, key: str) -> dict[str, Any]:
    is_searched = key in lineage.experiment.searched_recipes
    kind = "searched_merge" if is_searched else "merged_model"
    return _recipe(lineage, key, before=lineage.artifact(kind, key))


def _searching(lineage: Lineage, key: str) -> dict[str, Any]:
    config = _recipe(lineage, key, before=lineage.artifact("searched_merge", key))
    fields = {"splits", "max_documents", "num_bootstrap_samples", "seed"}
    return config | {"evaluation": lineage.experiment.evaluation.scoring(fields)}


def _mixing(lineage: Lineage, key: str) -> dict[str, Any]:
    recipe = lineage.experiment.mixtures[key]
    unseen = {"experts"} if recipe.router == "trained" else {"experts", "training"}
    content = recipe.made_of(exclude=unseen)
    return content | {"experts": recipe.domains(lineage.present_domains())}


def _has_searches(experiment: Experiment) -> bool:
    return bool(experiment.searched_recipes)


def has_recipes(experiment: Experiment) -> bool:
    """Whether models are merged."""
    return bool(experiment.merges)


def has_mixtures(experiment: Experiment) -> bool:
    """Whether experts become mixtures."""
    return bool(experiment.mixtures)


KINDS = (
    Kind(
        "layer_differences",
        place="differences/{key}",
        code_version="1",
        keys=domain_keys,
        absent=absent_domains,
        inputs=_seed_and_experts,
        takes=present,
        write_together=steps.measure_layer_differences,
        price=prices.of_differences,
        is_heavy=True,
    ),
    Kind(
        "searched_merge",
        place="searches/{key}",
        code_version="1",
        is_in=_has_searches,
        keys=searched_recipes,
        inputs=_models_and_datasets,
        takes=present,
        config=_searching,
        write=search_step.search_weights,
        price=prices.of_search,
        is_heavy=True,
        resumes=True,
        is_trained=by_inputs,
    ),
    Kind(
        "merged_model",
        place="models/merged/{key}",
        code_version="2",
        family=Family.MERGED,
        is_in=has_recipes,
        keys=recipe_names,
        inputs=_models_and_weights,
        takes=present,
        config=_merging,
        write=steps.merge_recipe,
        price=prices.of_merge,
        follows_inputs=True,
        is_heavy=True,
        is_trained=by_inputs,
    ),
    Kind(
        "moe_model",
        place="models/mixtures/{key}",
        code_version="1",
        family="mixture",
        is_in=has_mixtures,
        keys=mixture_names,
        inputs=_experts_and_text,
        takes=present,
        config=_mixing,
        write=mixing.mix_experts,
        price=prices.of_mixture,
        follows_inputs=True,
        is_heavy=True,
        resumes=True,
        is_trained=by_inputs,
    ),
)
