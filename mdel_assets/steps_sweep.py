"""The step of the line that compares the variants of experts: as `steps.py`."""

from typing import Any

from mdel_assets.artifacts import Record
from mdel_assets.lineage import Lineage
from mdel_assets.makers import makes
from mdel_assets.steps import current_record
from mdel_assets.steps_evaluation import read_matrix


@makes("sweep_report", has_key=False)
def make_sweep_report(lineage: Lineage) -> Record:
    """Write what each variant gains, beside the expert of its domain."""
    from mdel_assets.evaluation.sweep import write_sweep

    if current := current_record(lineage, "sweep_report"):
        return current
    identity = lineage.identity("sweep_report")
    artifact = lineage.store.sweep()
    with artifact.staging() as stage:
        entries = read_sweep(lineage)
        write_sweep(entries, stage)
        counts = {"num_variants": len(lineage.present_variants())}
        return artifact.publish(stage, identity, counts=counts)


def read_sweep(lineage: Lineage) -> list[Any]:
    """Return one entry for each expert with variants, and for each variant after it."""
    from mdel_assets.evaluation.sweep import sweep_entry

    matrix = read_matrix(lineage)
    variants = lineage.experiment.variants
    names = lineage.present_variants()
    found = []
    for domain in dict.fromkeys(variants[name].domain for name in names):
        own = [f"variant-{name}" for name in names if variants[name].domain == domain]
        for model in (f"expert-{domain}", *own):
            details = lineage.store.model(model).require().details
            found.append(
                sweep_entry(
                    matrix,
                    model,
                    domain=domain,
                    num_trained_parameters=details["num_trained_parameters"],
                    num_tokens=details["history"]["num_tokens"],
                )
            )
    return found
