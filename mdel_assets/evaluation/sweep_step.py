"""The step that compares the variants of experts."""

from typing import Any

from mdel_assets.evaluation.steps import read_reported_cells, report_rows
from mdel_assets.experiment.model_keys import SEED, Family
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.training.results import ExpertResult


def make_sweep_report(task: Task) -> Written:
    """Write what each variant gains, beside the expert of its domain."""
    from mdel_assets.evaluation.sweep import write_sweep

    write_sweep(read_sweep(task.lineage), task.folder)
    return Written(counts={"num_variants": len(task.lineage.keys("variant_expert"))})


def read_sweep(lineage: Lineage) -> list[Any]:
    """Return one entry for each expert with variants, and for each variant after it."""
    from mdel_assets.evaluation.matrix import build_matrix
    from mdel_assets.evaluation.sweep import sweep_entry

    variants, evaluation = lineage.experiment.variants, lineage.experiment.evaluation
    names = lineage.keys("variant_expert")
    domains = list(dict.fromkeys(variants[name].domain for name in names))
    own = {d: [name for name in names if variants[name].domain == d] for d in domains}
    swept = {
        model: d for d in domains for model in (Family.EXPERT.key(d), *Family.VARIANT.keys(own[d]))
    }
    cells = {model: read_reported_cells(lineage, model) for model in (SEED, *swept)}
    matrix = build_matrix(
        {model: report_rows(lineage, model, found) for model, found in cells.items()},
        cells,
        datasets=lineage.present_domains(),
        splits=evaluation.splits,
        num_samples=evaluation.num_bootstrap_samples,
        seed=evaluation.seed,
    )
    results = {m: ExpertResult.of(lineage.model(m).require().details) for m in swept}
    return [
        sweep_entry(
            matrix,
            model,
            domain=domain,
            num_trained_parameters=results[model].num_trained_parameters,
            num_tokens=results[model].history.num_tokens,
        )
        for model, domain in swept.items()
    ]
