"""Which models have a report, and which of its cells are of something that was made anew since."""

from mdel_assets.experiment.model_keys import SEED
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.replicates import replicate_key, replicates_of
from mdel_assets.scoring.report_rows import rows_of
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.looking_once import looking_once


def reported_models(lineage: Lineage) -> list[str]:
    """Models with a report, and the seed, without which there is nothing to compare with."""
    return [
        key
        for key in lineage.present_models()
        if key == SEED or lineage.artifact("perplexity_report", key).is_made()
    ]


def unreported_models(lineage: Lineage) -> list[str]:
    """Models without a report, further replicates behind those of the line: ``dense@2``."""
    found = []
    for number, replicate in enumerate(replicates_of(lineage), start=1):
        reported = reported_models(replicate)
        lacking = [key for key in replicate.present_models() if key not in reported]
        found += [replicate_key(key, number) if number > 1 else key for key in lacking]
    return found


@looking_once()
def stale_cells(lineage: Lineage) -> list[tuple[str, str, str]]:
    """Reported (model, dataset, split) whose model or dataset was made anew since scored.

    With replicates, those of which that is true of any.
    """
    found: dict[tuple[str, str, str], None] = {}
    for replicate in replicates_of(lineage):
        for model in reported_models(replicate):
            now = _fingerprint_now(replicate.model(model))
            report = replicate.artifact("perplexity_report", model).read_record()
            for row in rows_of(report):
                dataset = _fingerprint_now(lineage.artifact("domain_dataset", row["dataset"]))
                if (row["model_fingerprint"], row["dataset_fingerprint"]) != (now, dataset):
                    found[model, row["dataset"], row["split"]] = None
    return list(found)


def _fingerprint_now(artifact: Artifact) -> str | None:
    record = artifact.read_record()
    return record.fingerprint if record else None
