"""The forecast's assets: probes, and what they say of the gain of experts."""

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import result_of, rounded, table
from mdel_assets.defs.resources import Workspace
from mdel_assets.line.making import make_one

_NOTHING = {"state": "absent: a forecast needs two domains with training documents"}


def forecast_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the two assets; none where the experiment asks for no forecast."""
    if not line.has("merge_forecast"):
        return []
    experiment = line.experiment

    @line.asset("forecast_probes", group="training", icons={"pytorch", "json"}, pool="gpu")
    def forecast_probes(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """Experts that end early, one per domain, and how far they moved from the seed.

        A few per cent of an expert's steps tell losses on the own and on other domains, cosines of
        task vectors, and losses along the line from the seed to the mean. Only these figures are
        kept.
        """
        lineage = workspace.lineage(experiment)
        if not lineage.keys("forecast_probes"):
            return dg.MaterializeResult(metadata=_NOTHING)
        made = compute.made(context, lineage, [""])
        made.raise_failures()
        record = made.records[""]
        rows = [
            {"probe": probe} | {text: rounded(loss) for text, loss in losses.items()}
            for probe, losses in record.details["probe_losses"].items()
        ]
        shown = {**record.counts, "losses_nats_per_token": table(rows)}
        return result_of(record, lineage.artifact("forecast_probes"), shown)

    @line.asset("merge_forecast", group="evaluation", icons={"json", "markdown"})
    def merge_forecast(workspace: Workspace) -> dg.MaterializeResult:
        """Will branching pay? The gain over one dense model, before any expert is trained.

        Predicted from the probes by a line that was fitted on the settings of `mdel map`, with an
        interval, for the ensemble of experts, their mean, a searched merge and a mixture.
        """
        from mdel_assets.forecasting.model import predictions_of
        from mdel_assets.forecasting.steps import MARKDOWN_NAME

        lineage = workspace.lineage(experiment)
        if not lineage.keys("merge_forecast"):
            return dg.MaterializeResult(metadata=_NOTHING)
        record = make_one(lineage, "merge_forecast")
        artifact = lineage.artifact("merge_forecast")
        told = (artifact.folder / MARKDOWN_NAME).read_text("utf-8")
        gains = {
            f"gain_percent_{name.replace(' ', '_')}": rounded(prediction.gain)
            for name, prediction in predictions_of(record.details).items()
        }
        shown = {"advice": record.details["advice"], "forecast": dg.MetadataValue.md(told)}
        return result_of(record, artifact, {**shown, **gains})

    return [forecast_probes, merge_forecast]
