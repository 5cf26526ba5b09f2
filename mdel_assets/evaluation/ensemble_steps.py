"""The steps from token scores to ensembles: each writes one kind of artifact."""

import dataclasses
from typing import Any

from mdel_assets.evaluation.ensemble_record import EnsembleRecord
from mdel_assets.evaluation.steps import read_reported_cells, report_rows
from mdel_assets.experiment.model_keys import SEED, Family
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.replicates import replicates_of


def make_router(task: Task) -> Written:
    """Train the routers that tell a text's domain from its beginning."""
    from mdel_assets.evaluation.router import train_router

    lineage, evaluation = task.lineage, task.lineage.experiment.evaluation
    domains = lineage.present_domains()
    confusions = train_router(
        {domain: lineage.folder("domain_dataset", domain) for domain in domains},
        task.folder,
        settings=evaluation.ensemble,
        seed=evaluation.seed,
    )
    details = {"domains": domains, "confusions": [dataclasses.asdict(c) for c in confusions]}
    return Written(details=details)


def make_ensemble_report(task: Task) -> Written:
    """Write experts weighed together, beside single models; the matrix is what a page shows."""
    from mdel_assets.evaluation.ensemble_report import (
        ensemble_findings,
        standings,
        write_ensemble_report,
    )

    lineage = task.lineage
    matrix = read_ensembles(lineage, fingerprint=task.identity.fingerprint)
    num_experts, merged = len(lineage.present_domains()), shown_merges(lineage)
    write_ensemble_report(matrix, task.folder, num_experts=num_experts, merged=merged)
    ranked = standings(matrix, matrix.splits[0], num_experts=num_experts)
    told = EnsembleRecord(num_experts, tuple(ensemble_findings(ranked)))
    return Written(
        counts={"num_experts": told.num_experts},
        details={"findings": list(told.findings)},
        shown=matrix,
    )


def read_ensembles(lineage: Lineage, *, fingerprint: str = "") -> Any:
    """Return the matrix of single models and ensembles, computed from the token scores.

    ``fingerprint`` is that of the report in which they stand, by default of the one that is there.
    """
    from mdel_assets.evaluation.matrix import build_matrix

    fingerprint = fingerprint or lineage.artifact("ensemble_report").require().fingerprint
    evaluation = lineage.experiment.evaluation
    own = [model for model in lineage.present_models() if not Family.REFERENCE.has(model)]
    singles = {model: read_reported_cells(lineage, model) for model in own}
    ensembles = _ensembles(lineage)
    further = []
    for replicate in replicates_of(lineage)[1:]:
        models = [model for model in replicate.present_models() if model in singles]
        cells = {model: read_reported_cells(replicate, model) for model in models}
        further.append({**cells, **_ensembles(replicate)})
    rows = {model: report_rows(lineage, model, cells) for model, cells in singles.items()}
    # An ensemble's documents, and so its datasets' fingerprints, are those of any model.
    rows |= {
        name: report_rows(lineage, SEED, cells, name=name, fingerprint=fingerprint)
        for name, cells in ensembles.items()
    }
    return build_matrix(
        rows,
        {**singles, **ensembles},
        datasets=lineage.present_domains(),
        splits=evaluation.splits,
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
        further=further,
    )


def _ensembles(lineage: Lineage) -> dict[str, list[Any]]:
    """Return each ensemble's cells, with its bootstrap."""
    from mdel_assets.evaluation.ensemble_scores import ensemble_cells, random_split_cells
    from mdel_assets.evaluation.router import Router
    from mdel_assets.scoring.perplexity import with_samples
    from mdel_assets.training.model_files import load_tokenizer, reading

    domains, evaluation = lineage.present_domains(), lineage.experiment.evaluation
    seed = lineage.artifact("seed_model")
    seed.require()
    ensembles = ensemble_cells(
        {d: lineage.folder("token_scores", Family.EXPERT.key(d)) for d in domains},
        {domain: lineage.folder("domain_dataset", domain) for domain in domains},
        router=Router(lineage.folder("domain_router"), temperature=evaluation.ensemble.temperature),
        tokenizer=reading(load_tokenizer(seed.folder), evaluation.special_tokens),
        prior_decay=evaluation.ensemble.prior_decay,
        max_bytes=evaluation.max_document_bytes,
    )
    if numbers := lineage.keys("random_split_expert"):
        ensembles |= random_split_cells(
            {n: lineage.folder("token_scores", Family.RANDOM.key(n)) for n in numbers},
            prior_decay=evaluation.ensemble.prior_decay,
        )
    # Drawn once, for the rows and for the differences.
    sampling = {"num_samples": evaluation.num_bootstrap_samples, "seed": evaluation.seed}
    return {name: with_samples(cells, **sampling) for name, cells in ensembles.items()}


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
        found[Family.MERGED.key(name)] = f"{whose[members[0]]} {how}"
    return found
