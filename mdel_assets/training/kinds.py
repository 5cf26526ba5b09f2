"""The kinds of artifact that are models: seed, experts, baselines, and models to compare with."""

from collections.abc import Collection, Sequence
from typing import Any

from mdel_assets.data.kinds import absent_domains, datasets, domain_keys
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.fields import WATCHING_FIELDS, ExpertTraining
from mdel_assets.experiment.model_keys import DENSE_ONE, Family
from mdel_assets.hub.sources import at_commit
from mdel_assets.line.kind import Input, Kind, always
from mdel_assets.line.lineage import Lineage, with_text
from mdel_assets.training import prices, steps, time_left

SEED = Input("seed_model")


def random_split_numbers(experiment: Experiment) -> Sequence[str]:
    """The numbers of the random split's experts, from 1."""
    return experiment.random_split_keys


def absent_numbers(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    """Say which experts of the random split are absent: there are as many as domains."""
    count = len(experiment.domain_keys) - len(domains)
    reason = "absent: the random split has as many experts as the corpus has domains"
    return dict.fromkeys(experiment.random_split_keys[count:], reason)


def variant_names(experiment: Experiment) -> Sequence[str]:
    """The names of the sweep's variants."""
    return list(experiment.variants)


def absent_variants(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    """Say which variants are absent: those of experts of absent domains."""
    why = absent_domains(experiment, domains)
    variants = experiment.variants.items()
    return {name: why[variant.domain] for name, variant in variants if variant.domain in why}


def reference_names(experiment: Experiment) -> Sequence[str]:
    """The names of the models from elsewhere."""
    return list(experiment.evaluation.references)


def _settings(training: ExpertTraining) -> dict[str, Any]:
    return training.made_of(exclude={*WATCHING_FIELDS, "store"})


def _training(lineage: Lineage, key: str) -> dict[str, Any]:
    return _settings(lineage.experiment.training)


def _variant_training(lineage: Lineage, key: str) -> dict[str, Any]:
    training = lineage.experiment.variant_training(key)
    return _settings(training) | {"text": lineage.experiment.variants[key].text}


def _seed(lineage: Lineage, key: str) -> dict[str, Any]:
    seed = lineage.experiment.seed_model
    source = seed.made_of(exclude=WATCHING_FIELDS)
    place = lineage.experiment.place_of_model(seed.path or "")
    return at_commit(source, lineage.artifact("seed_model"), place=place)


def _reference(lineage: Lineage, key: str) -> dict[str, Any]:
    source = lineage.experiment.evaluation.references[key]
    place = lineage.experiment.place_of_model(source.path)
    return at_commit(source.made_of(), lineage.artifact("reference_model", key), place=place)


def _datasets_of_seed(experiment: Experiment, key: str) -> list[Input]:
    return datasets(experiment) if experiment.seed_model.pretrain else []


def _own_dataset(experiment: Experiment, key: str) -> list[Input]:
    return [Input("domain_dataset", key), SEED]


def _dataset_of_variant(experiment: Experiment, key: str) -> list[Input]:
    return [Input("domain_dataset", experiment.variants[key].domain), SEED]


def _seed_and_datasets(experiment: Experiment, key: str) -> list[Input]:
    return [SEED, *datasets(experiment)]


def _is_pretrained(experiment: Experiment) -> bool:
    return experiment.seed_model.pretrain is not None


def _has_dense_one(experiment: Experiment) -> bool:
    return experiment.baselines.dense_one


def _has_dense(experiment: Experiment) -> bool:
    return experiment.baselines.dense


def _has_random_split(experiment: Experiment) -> bool:
    return experiment.baselines.random_split


def has_variants(experiment: Experiment) -> bool:
    """Whether experts are trained in other ways, too."""
    return bool(experiment.variants)


def _has_references(experiment: Experiment) -> bool:
    return bool(experiment.evaluation.references)


KINDS = (
    Kind(
        "seed_model",
        place="models/seed",
        code_version="3",
        family=Family.SEED,
        inputs=_datasets_of_seed,
        config=_seed,
        write=steps.make_seed,
        price=prices.of_seed,
        operations=time_left.of_pretraining,
        is_heavy=True,
        resumes=True,
        is_trained=_is_pretrained,
    ),
    Kind(
        "expert_model",
        place="models/experts/{key}",
        code_version="3",
        family=Family.EXPERT,
        keys=domain_keys,
        absent=absent_domains,
        inputs=_own_dataset,
        config=_training,
        write=steps.train_expert,
        price=prices.of_expert,
        operations=time_left.of_one_expert,
        links_to="seed_model",
        is_heavy=True,
        resumes=True,
        is_trained=always,
    ),
    Kind(
        "dense_one_baseline",
        place="models/dense-one",
        code_version="3",
        family=DENSE_ONE,
        is_in=_has_dense_one,
        inputs=_seed_and_datasets,
        takes=with_text,
        config=_training,
        write=steps.train_dense_one,
        price=prices.of_one_share,
        operations=time_left.of_one_expert,
        links_to="seed_model",
        is_heavy=True,
        resumes=True,
        is_trained=always,
    ),
    Kind(
        "dense_baseline",
        place="models/dense",
        code_version="3",
        family=Family.DENSE,
        is_in=_has_dense,
        inputs=_seed_and_datasets,
        takes=with_text,
        config=_training,
        write=steps.train_dense,
        price=prices.of_dense,
        operations=time_left.of_all_experts,
        links_to="seed_model",
        is_heavy=True,
        resumes=True,
        is_trained=always,
    ),
    Kind(
        "random_split_expert",
        place="models/random/{key}",
        code_version="4",
        family=Family.RANDOM,
        is_in=_has_random_split,
        keys=random_split_numbers,
        absent=absent_numbers,
        inputs=_seed_and_datasets,
        takes=with_text,
        config=_training,
        write=steps.train_random_split,
        price=prices.of_one_share,
        operations=time_left.of_one_expert,
        links_to="seed_model",
        is_heavy=True,
        resumes=True,
        is_trained=always,
    ),
    Kind(
        "variant_expert",
        place="models/variants/{key}",
        code_version="1",
        family=Family.VARIANT,
        is_in=has_variants,
        keys=variant_names,
        absent=absent_variants,
        inputs=_dataset_of_variant,
        config=_variant_training,
        write=steps.train_variant,
        price=prices.of_variant,
        operations=time_left.of_one_expert,
        links_to="seed_model",
        is_heavy=True,
        resumes=True,
    ),
    Kind(
        "reference_model",
        place="models/references/{key}",
        code_version="1",
        family=Family.REFERENCE,
        is_in=_has_references,
        keys=reference_names,
        config=_reference,
        write=steps.fetch_reference,
        price=prices.of_reference,
        is_heavy=True,
    ),
)
