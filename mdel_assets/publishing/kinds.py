"""The kinds of artifact that tell what was published, and where. No run of the line makes them."""

from functools import partial

from mdel_assets.data.kinds import absent_domains, domain_keys
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.line.kind import Input, Kind
from mdel_assets.merging.kinds import (
    has_mixtures,
    has_recipes,
    mixture_names,
    recipe_names,
)
from mdel_assets.publishing.prices import of_publication


def _dataset(experiment: Experiment, key: str) -> list[Input]:
    return [Input("domain_dataset", key)]


def _expert(experiment: Experiment, key: str) -> list[Input]:
    return [Input("expert_model", key)]


def _merged(experiment: Experiment, key: str) -> list[Input]:
    return [Input("merged_model", key)]


def _mixture(experiment: Experiment, key: str) -> list[Input]:
    return [Input("moe_model", key)]


KINDS = (
    Kind(
        "hub_dataset",
        place="publications/dataset/{key}",
        code_version="1",
        keys=domain_keys,
        absent=absent_domains,
        inputs=_dataset,
        price=partial(of_publication, "domain_dataset"),
        is_in_line=False,
    ),
    Kind(
        "hub_expert",
        place="publications/expert/{key}",
        code_version="1",
        keys=domain_keys,
        absent=absent_domains,
        inputs=_expert,
        price=partial(of_publication, "expert_model"),
        is_in_line=False,
    ),
    Kind(
        "hub_merged_model",
        place="publications/merged_model/{key}",
        code_version="1",
        keys=recipe_names,
        is_in=has_recipes,
        inputs=_merged,
        price=partial(of_publication, "merged_model"),
        is_in_line=False,
    ),
    Kind(
        "hub_mixture",
        place="publications/mixture/{key}",
        code_version="1",
        keys=mixture_names,
        is_in=has_mixtures,
        inputs=_mixture,
        price=partial(of_publication, "moe_model"),
        is_in_line=False,
    ),
)
