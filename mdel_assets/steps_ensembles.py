"""The steps from token scores to ensembles, one function per asset, without Dagster."""

import dataclasses
from typing import Any

from mdel_assets.artifacts import Record
from mdel_assets.lineage import Lineage
from mdel_assets.makers import makes
from mdel_assets.steps import current_record
from mdel_assets.steps_evaluation import read_reported_cells, report_rows


@makes("domain_router", has_key=False)
def make_router(lineage: Lineage) -> Record:
    """Train the routers that tell a text's domain from its beginning."""
    from mdel_assets.evaluation.router import train_router

    if current := current_record(lineage, "domain_router"):
        return current
    identity = lineage.identity("domain_router")
    evaluation = lineage.experiment.evaluation
    domains = lineage.present_domains()
    artifact = lineage.store.router()
    with artifact.staging() as stage:
        confusions = train_router(
            {domain: lineage.store.dataset(domain).folder for domain in domains},
            stage,
            settings=evaluation.ensemble,
            seed=evaluation.seed,
        )
        details = {"domains": domains, "confusions": [dataclasses.asdict(c) for c in confusions]}
        return artifact.publish(stage, identity, details=details)


@makes("ensemble_report", has_key=False)
def make_ensemble_report(lineage: Lineage) -> tuple[Record, Any]:
    """Write experts weighed together, beside single models; return record and their matrix."""
    from mdel_assets.evaluation.ensemble_report import (
        ensemble_findings,
        standings,
        write_ensemble_report,
    )

    current = current_record(lineage, "ensemble_report")
    # Before anything is read: what another run makes meanwhile leaves a report that is stale.
    identity = lineage.identity("ensemble_report")
    matrix = read_ensembles(lineage, fingerprint=identity.fingerprint)
    if current:
        return current, matrix
    artifact = lineage.store.ensemble()
    num_experts = len(lineage.present_domains())
    with artifact.staging() as stage:
        write_ensemble_report(matrix, stage, num_experts=num_experts, merged=shown_merges(lineage))
        ranked = standings(matrix, matrix.splits[0], num_experts=num_experts)
        counts = {"num_experts": num_experts}
        details = {"findings": ensemble_findings(ranked)}
        return artifact.publish(stage, identity, counts=counts, details=details), matrix


def read_ensembles(lineage: Lineage, *, fingerprint: str) -> Any:
    """Return the matrix of single models and ensembles, computed from the token scores.

    ``fingerprint`` is that of the report in which they stand.
    """
    from mdel_assets.evaluation.ensemble_scores import ensemble_cells, random_split_cells
    from mdel_assets.evaluation.matrix import build_matrix
    from mdel_assets.evaluation.perplexity import with_samples
    from mdel_assets.evaluation.router import Router
    from mdel_assets.training.model_files import load_tokenizer

    domains = lineage.present_domains()
    evaluation = lineage.experiment.evaluation
    store = lineage.store
    store.seed_model().require()
    ensembles = ensemble_cells(
        {domain: store.scores(f"expert-{domain}").folder for domain in domains},
        {domain: store.dataset(domain).folder for domain in domains},
        router=Router(store.router().folder, temperature=evaluation.ensemble.temperature),
        tokenizer=load_tokenizer(store.seed_model().folder),
        prior_decay=evaluation.ensemble.prior_decay,
        max_bytes=evaluation.max_document_bytes,
    )
    if numbers := lineage.random_split_numbers():
        ensembles |= random_split_cells(
            {number: store.scores(f"random-{number}").folder for number in numbers},
            prior_decay=evaluation.ensemble.prior_decay,
        )
    singles = {model: read_reported_cells(lineage, model) for model in lineage.own_models()}
    # Drawn once, for the rows and for the differences.
    sampling = {"num_samples": evaluation.num_bootstrap_samples, "seed": evaluation.seed}
    ensembles = {name: with_samples(cells, **sampling) for name, cells in ensembles.items()}
    rows = {model: report_rows(lineage, model, cells) for model, cells in singles.items()}
    # An ensemble's documents, and so its datasets' fingerprints, are those of any model.
    rows |= {
        name: report_rows(lineage, "seed", cells, name=name, fingerprint=fingerprint)
        for name, cells in ensembles.items()
    }
    return build_matrix(
        rows,
        {**singles, **ensembles},
        datasets=domains,
        splits=evaluation.splits,
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )


def shown_merges(lineage: Lineage) -> dict[str, str]:
    """Return the merged models that the report shows at a glance, with their labels.

    They are those of all experts, or of all of the random split, alike.
    """
    whose = {"expert:*": "domain experts", "random:*": "random-split experts"}
    found = {}
    for name, recipe in lineage.experiment.merges.items():
        members = [model for model in recipe.model_names if model != recipe.base]
        if len(members) != 1 or members[0] not in whose:
            continue
        how = f"merged by {recipe.merge_method.replace('_', ' ')}"
        if recipe.merge_method == "linear":
            how = "averaged"
        elif recipe.mdel.search:
            how = "merged by a search for weights"
        found[f"merged-{name}"] = f"{whose[members[0]]} {how}"
    return found
