"""The kinds of artifact that judge models: scores, reports, the matrix, ensembles, sweeps."""

from collections.abc import Collection, Sequence
from typing import Any

from mdel_assets.data.kinds import absent_domains, datasets
from mdel_assets.evaluation import ensemble_steps, prices, steps, sweep_step
from mdel_assets.evaluation.reported import reported_models, stale_cells, unreported_models
from mdel_assets.experiment.evaluation import shares_documents
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.experiment.model_keys import SEED, Family
from mdel_assets.line.kind import Input, Kind, Parts, by_inputs, model_input
from mdel_assets.line.lineage import Lineage, present, with_text
from mdel_assets.line.replicates import (
    is_replicated,
    replicate_key,
    replicate_kind,
    replicates_of,
)
from mdel_assets.merging.kinds import KINDS as MERGED
from mdel_assets.training import time_left
from mdel_assets.training.kinds import KINDS as TRAINED
from mdel_assets.training.kinds import absent_numbers, absent_variants, has_variants

_MODELS = (*TRAINED, *MERGED)


def models(experiment: Experiment) -> Sequence[str]:
    """The keys of all models."""
    return experiment.model_keys


def absent_models(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    """Say which models are absent, where the corpus lacks ``domains``."""
    absent = {
        Family.EXPERT: absent_domains(experiment, domains),
        Family.RANDOM: absent_numbers(experiment, domains),
        Family.VARIANT: absent_variants(experiment, domains),
    }
    return {
        family.key(key): reason
        for family, reasons in absent.items()
        for key, reason in reasons.items()
    }


def _has_two_domains(experiment: Experiment) -> bool:
    return len(experiment.domain_keys) > 1


def _without_ensembles(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    if len(experiment.domain_keys) - len(domains) > 1:
        return {}
    reason = "absent: fewer than two domains have training documents, nothing to weigh"
    return {"": reason}


def _without_variants(experiment: Experiment, domains: Collection[str]) -> dict[str, str]:
    is_empty = len(absent_variants(experiment, domains)) == len(experiment.variants)
    return {"": "absent: the corpus has no domain of a variant"} if is_empty else {}


def model_and_datasets(experiment: Experiment, key: str) -> list[Input]:
    """Return a model and all datasets, as inputs of what it is measured by."""
    return [model_input(_MODELS, key), *datasets(experiment)]


def _own_scores(experiment: Experiment, key: str) -> list[Input]:
    return [Input("token_scores", key)]


def _all_reports(experiment: Experiment, key: str) -> list[Input]:
    kinds, anew = ("token_scores", "perplexity_report"), _trained_anew(experiment)
    own = [Input(kind, model) for kind in kinds for model in experiment.model_keys]
    return own + [Input(replicate_kind(kind), model) for kind in kinds for model in anew]


def _trained_anew(experiment: Experiment) -> list[str]:
    """Return the keys of the models of further replicates."""
    rows = {kind.name: kind for kind in _MODELS}
    return [
        replicate_key(model, number)
        for number in range(2, experiment.replicates + 1)
        for model in experiment.replicate(number).model_keys
        if is_replicated(rows, experiment, model_input(_MODELS, model))
    ]


def _all_datasets(experiment: Experiment, key: str) -> list[Input]:
    return datasets(experiment)


def _router_and_scores(experiment: Experiment, key: str) -> list[Input]:
    own = [model for model in experiment.model_keys if not Family.REFERENCE.has(model)]
    anew = [Input(replicate_kind("token_scores"), model) for model in _trained_anew(experiment)]
    return [Input("domain_router"), *(Input("token_scores", model) for model in own), *anew]


def _scores_of_variants(experiment: Experiment, key: str) -> list[Input]:
    variants = experiment.variants
    swept = Family.EXPERT.keys(sorted({variant.domain for variant in variants.values()}))
    named = [SEED, *swept, *Family.VARIANT.keys(variants)]
    return [Input("token_scores", model) for model in named]


def _reported(lineage: Lineage, inputs: Sequence[Input]) -> list[Input]:
    """Leave out what is of models without a report."""
    found = set(reported_models(lineage))
    for number, replicate in enumerate(replicates_of(lineage)[1:], start=2):
        found |= {replicate_key(model, number) for model in reported_models(replicate)}
    return [entry for entry in inputs if entry.key in found]


def _scoring(lineage: Lineage, key: str) -> dict[str, Any]:
    return lineage.experiment.evaluation.scoring({"splits", "max_documents", "seed"})


def _sampling(lineage: Lineage, key: str) -> dict[str, Any]:
    evaluation = lineage.experiment.evaluation
    sampling = evaluation.made_of({"num_bootstrap_samples", "seed"})
    if any(shares_documents(split) for split in evaluation.splits):
        # Tells these intervals from earlier ones, which took shared documents for different ones.
        sampling["shared_documents"] = "drawn once"
    return sampling


def _matrix(lineage: Lineage, key: str) -> dict[str, Any]:
    return _sampling(lineage, key) | {
        "unreported": unreported_models(lineage),
        "stale": ["/".join(place) for place in stale_cells(lineage)],
    }


def _routing(lineage: Lineage, key: str) -> dict[str, Any]:
    evaluation = lineage.experiment.evaluation
    count = evaluation.ensemble.documents_per_domain(len(lineage.present_domains()))
    return {"documents": count, "seed": evaluation.seed}


def _weighing(lineage: Lineage, key: str) -> dict[str, Any]:
    weighing = lineage.experiment.evaluation.ensemble
    weights = {"prior_decay": weighing.prior_decay, "temperature": weighing.temperature}
    return _sampling(lineage, key) | weights


KINDS = (
    Kind(
        "token_scores",
        place="scores/{key}",
        code_version="2",
        keys=models,
        absent=absent_models,
        inputs=model_and_datasets,
        takes=with_text,
        config=_scoring,
        write_together=steps.score,
        price=prices.of_scores,
        parts=Parts(steps.score_part, steps.wholly_scored),
        resumes=True,
        operations=time_left.of_scoring,
        is_report=True,
        follows_inputs=True,
        is_heavy=True,
        is_trained=by_inputs,
    ),
    Kind(
        "perplexity_report",
        place="reports/perplexity",
        record="{key}",
        code_version="2",
        keys=models,
        absent=absent_models,
        inputs=_own_scores,
        config=_sampling,
        write=steps.report,
        price=prices.of_report,
        is_report=True,
        follows_inputs=True,
        is_trained=by_inputs,
    ),
    Kind(
        "perplexity_matrix",
        place="reports",
        shares_folder=True,
        code_version="3",
        inputs=_all_reports,
        takes=_reported,
        takes_what_is_there=True,
        config=_matrix,
        write=steps.make_matrix,
        price=prices.of_matrix,
        is_report=True,
        follows_inputs=True,
    ),
    Kind(
        "domain_router",
        place="router",
        code_version="1",
        is_in=_has_two_domains,
        absent=_without_ensembles,
        inputs=_all_datasets,
        takes=with_text,
        config=_routing,
        write=ensemble_steps.make_router,
        price=prices.of_router,
        is_report=True,
        follows_inputs=True,
    ),
    Kind(
        "ensemble_report",
        place="reports",
        record="ensemble",
        code_version="3",
        is_in=_has_two_domains,
        absent=_without_ensembles,
        inputs=_router_and_scores,
        takes=present,
        config=_weighing,
        write=ensemble_steps.make_ensemble_report,
        price=prices.of_ensembles,
        is_report=True,
        follows_inputs=True,
    ),
    Kind(
        "sweep_report",
        place="reports",
        record="sweep",
        code_version="1",
        is_in=has_variants,
        absent=_without_variants,
        inputs=_scores_of_variants,
        takes=present,
        config=_sampling,
        write=sweep_step.make_sweep_report,
        price=prices.of_sweep,
        is_report=True,
        follows_inputs=True,
    ),
)
