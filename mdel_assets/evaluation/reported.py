"""Which models have a report, and which of its cells are of something that was made anew since."""

from mdel_assets.experiment.model_keys import SEED
from mdel_assets.line.lineage import Lineage
from mdel_assets.scoring.report_rows import rows_of
from mdel_assets.store.artifacts import Artifact, looking_once


def reported_models(lineage: Lineage) -> list[str]:
    """Models with a report, and the seed, without which there is nothing to compare with."""
    return [
        key
        for key in lineage.present_models()
        if key == SEED or lineage.artifact("perplexity_report", key).record_path.exists()
    ]


@looking_once()
def stale_cells(lineage: Lineage) -> list[tuple[str, str, str]]:
    """Reported (model, dataset, split) whose model or dataset was made anew since scored."""
    found = []
    for model in reported_models(lineage):
        now = _fingerprint_now(lineage.model(model))
        report = lineage.artifact("perplexity_report", model).read_record()
        for row in rows_of(report):
            dataset = _fingerprint_now(lineage.artifact("domain_dataset", row["dataset"]))
            if (row["model_fingerprint"], row["dataset_fingerprint"]) != (now, dataset):
                found.append((model, row["dataset"], row["split"]))
    return found


def _fingerprint_now(artifact: Artifact) -> str | None:
    record = artifact.read_record()
    return record.fingerprint if record else None
