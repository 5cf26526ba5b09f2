"""The asset of reference models: models from elsewhere to compare with."""

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import Described, results_of
from mdel_assets.defs.network import retrying_transient_errors
from mdel_assets.defs.resources import Workspace
from mdel_assets.defs.training import MODEL_IS_WHOLE, model_is_whole, model_metadata
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

_CHECK = "reference_loads"


def reference_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
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
        backfill_policy=compute.backfill_policy("reference_model"),
    )
    def reference_model(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """A model from elsewhere, to compare the experiment's own models with.

        It may have another tokenizer: bits per byte are still comparable.
        """
        lineage = workspace.lineage(experiment)

        def describe(record: Record, artifact: Artifact) -> Described:
            whole = model_is_whole(record, artifact, check_name=_CHECK)
            return model_metadata(record, artifact), [whole]

        with retrying_transient_errors(context):
            made = compute.made(context, lineage, context.partition_keys)
            return results_of(context, made, describe, lineage=lineage)

    return [reference_model]
