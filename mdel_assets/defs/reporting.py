"""The asset that shows the whole line on one page."""

import textwrap
from collections.abc import Sequence

import dagster as dg

from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import result_of
from mdel_assets.defs.resources import Workspace
from mdel_assets.line.making import make_one
from mdel_assets.reporting.steps import REPORT_NAME

# What a window of 1280 pixels shows of a table's values.
_MOST_CHARACTERS = 42


def report_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the asset `experiment_report`."""

    @line.asset("experiment_report", group="evaluation", icons={"html"})
    def experiment_report(workspace: Workspace) -> dg.MaterializeResult:
        """Everything that the experiment has found, on one page: `report.html`.

        One file that opens from disk, without network and without scripts: the verdict in words,
        the matrix, ensembles, losses, data, texts, costs and provenance. It is made from records
        and reports; nothing is measured anew.
        """
        lineage = workspace.lineage(line.experiment)
        record = make_one(lineage, "experiment_report")
        artifact = lineage.artifact("experiment_report")
        shown = {
            "verdict": dg.MetadataValue.md(_narrow(record.details["verdict"])),
            "report": dg.MetadataValue.path(str(artifact.folder / REPORT_NAME)),
            **record.counts,
        }
        return result_of(record, artifact, shown)

    return [experiment_report]


def _narrow(paragraphs: Sequence[str]) -> str:
    """Return paragraphs as Markdown of short lines.

    Dagster makes all values of a page as wide as the widest, the path: a paragraph of that width
    would be cut.
    """
    wrapped = (
        textwrap.wrap(text, _MOST_CHARACTERS, break_long_words=False, break_on_hyphens=False)
        for text in paragraphs
    )
    return "\n\n".join("  \n".join(lines) for lines in wrapped)
