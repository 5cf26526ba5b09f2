"""The kind of artifact that shows what models write."""

from collections.abc import Collection, Sequence
from typing import Any

from mdel_assets.data.kinds import datasets
from mdel_assets.evaluation.kinds import absent_models, model_and_datasets, models
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.model_keys import POSTERIOR
from mdel_assets.generation import prices, steps
from mdel_assets.line.kind import Input, Kind
from mdel_assets.line.lineage import Lineage, present


def writers(experiment: Experiment) -> Sequence[str]:
    """The keys of all models, and of all experts together if they are asked for."""
    together = experiment.evaluation.sample_texts.ensemble and len(experiment.domain_keys) > 1
    return [*models(experiment), *([POSTERIOR] if together else [])]


def absent_writers(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    """Say which of them are absent, where the corpus lacks ``domains``."""
    found = absent_models(experiment, domains)
    if len(experiment.domain_keys) - len(domains) < 2:
        found[POSTERIOR] = "absent: fewer than two domains have training documents"
    return found


def _model_or_experts(experiment: Experiment, key: str) -> list[Input]:
    if key != POSTERIOR:
        return model_and_datasets(experiment, key)
    experts = [Input("expert_model", domain) for domain in experiment.domain_keys]
    return [*experts, *datasets(experiment)]


def _writing(lineage: Lineage, key: str) -> dict[str, Any]:
    evaluation = lineage.experiment.evaluation
    settings = evaluation.sample_texts.made_of(exclude={"ensemble"})
    return evaluation.made_of({"prefix_token", "special_tokens", "dtype", "seed"}) | settings


def _are_wanted(experiment: Experiment) -> bool:
    return experiment.evaluation.sample_texts.num_documents > 0


KINDS = (
    Kind(
        "sample_texts",
        place="samples/{key}",
        code_version="1",
        keys=writers,
        is_in=_are_wanted,
        absent=absent_writers,
        inputs=_model_or_experts,
        takes=present,
        config=_writing,
        write_together=steps.write_sample_texts,
        price=prices.of_samples,
        follows_inputs=True,
        is_heavy=True,
    ),
)
