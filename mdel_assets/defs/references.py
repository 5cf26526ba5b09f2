"""The asset of reference models: models from elsewhere to compare with."""

import dagster as dg

from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import result_of
from mdel_assets.defs.network import retrying_transient_errors
from mdel_assets.defs.resources import Workspace
from mdel_assets.defs.training import MODEL_IS_WHOLE, model_is_whole, model_metadata
from mdel_assets.line.making import make_one

_CHECK = "reference_loads"


def reference_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
    """Return the asset `reference_model`; none where the experiment names no reference."""
    experiment = line.experiment
    if not line.has("reference_model"):
        return []

    @line.asset(
        "reference_model",
        group="evaluation",
        icons={"pytorch", "huggingface"},
        blocking_checks={_CHECK: MODEL_IS_WHOLE},
        pool="io",
    )
    def reference_model(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """A model from elsewhere, to compare the experiment's own models with.

        It may have another tokenizer: bits per byte are still comparable.
        """
        lineage = workspace.lineage(experiment)
        name = context.partition_key
        with retrying_transient_errors(context):
            record = make_one(lineage, "reference_model", name)
        artifact = lineage.artifact("reference_model", name)
        return result_of(
            record,
            artifact,
            model_metadata(record, artifact),
            model_is_whole(record, artifact, check_name=_CHECK),
        )

    return [reference_model]
