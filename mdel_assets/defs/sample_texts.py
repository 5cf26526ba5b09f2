"""The asset that shows what models write."""

from typing import Any

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.evaluation import made_with_pages
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import page, rounded, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.generation.steps import side_by_side
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.records import Record


def sample_text_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the asset `sample_texts`; none where the experiment wants no texts."""
    if not line.has("sample_texts"):
        return []
    experiment = line.experiment

    @line.asset(
        "sample_texts",
        group="evaluation",
        icons={"pytorch", "markdown"},
        backfill_policy=AllInOneRun(),
        pool="gpu",
    )
    def sample_texts(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """What a model writes after the beginnings of held-out documents of each domain.

        Seeded samples, beside those of the seed and of all experts together; and how well it
        predicts how each document really goes on, in bits per byte.
        """
        return made_with_pages(context, workspace.lineage(experiment), compute, _page)

    return [sample_texts]


def _page(lineage: Lineage, record: Record) -> dict[str, Any]:
    from mdel_assets.generation.samples_markdown import samples_markdown

    shown = side_by_side(lineage, record.key)
    rows = [
        {"domain": each.domain}
        | {model: rounded(samples[number].bits_per_byte) for model, samples in shown.items()}
        # A corpus without held-out text has no samples.
        for number, each in enumerate(shown.get(record.key, ()))
    ]
    entries = {"texts": dg.MetadataValue.md(samples_markdown(shown)), "bits_per_byte": table(rows)}
    return page(entries, record, lineage.artifact("sample_texts", record.key))
