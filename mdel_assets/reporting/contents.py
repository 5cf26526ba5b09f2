"""What the page shows, read from the records and reports of the line."""

from mdel_assets.evaluation.steps import read_matrix
from mdel_assets.line.lineage import Lineage
from mdel_assets.reporting.corpus_tables import corpus_of
from mdel_assets.reporting.foretold import foretold_of
from mdel_assets.reporting.made_of import records_behind
from mdel_assets.reporting.matrix_tables import averages_of, domain_changes, heat_of
from mdel_assets.reporting.overview import facts_of
from mdel_assets.reporting.page import Page
from mdel_assets.reporting.provenance import provenance_of
from mdel_assets.reporting.tasks import tasks_of
from mdel_assets.reporting.texts import texts_of
from mdel_assets.reporting.together import together_of
from mdel_assets.reporting.trainings import trainings_of
from mdel_assets.reporting.verdict import verdict_of
from mdel_assets.store.looking_once import looking_once
from mdel_assets.store.records import Identity


@looking_once()
def contents_of(lineage: Lineage, identity: Identity) -> Page:
    """Return what the report with ``identity`` shows; nothing is measured anew."""
    matrix = read_matrix(lineage)
    records = records_behind(lineage, identity)
    split = matrix.splits[0]
    return Page(
        experiment=lineage.experiment.name,
        verdict=verdict_of(lineage, matrix),
        facts=facts_of(lineage, matrix, records),
        heats=[heat_of(matrix, each) for each in matrix.splits],
        averages=averages_of(matrix, split),
        changes=domain_changes(matrix, split),
        notes=matrix.notes,
        missing=matrix.missing,
        over=matrix.over,
        has_stale=bool(matrix.stale),
        together=together_of(lineage, matrix),
        foretold=foretold_of(lineage, records),
        tasks=tasks_of(lineage, records),
        trainings=trainings_of(lineage, records),
        corpus=corpus_of(lineage, records),
        texts=texts_of(lineage),
        provenance=provenance_of(lineage, identity, records),
    )
