"""The asset of models from elsewhere, to compare with."""

import dagster as dg

from mdel_assets import steps_training
from mdel_assets.defs.metadata import OWNERS, page
from mdel_assets.defs.network import repeated_where_the_network_failed
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Workspace
from mdel_assets.defs.training import MODEL_IS_WHOLE, model_is_whole, model_metadata
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS

_CHECK = "reference_loads"


def reference_assets(experiment: Experiment, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Return the asset `reference_model`; none where the experiment names no reference."""
    if partitions.reference is None:
        return []

    @dg.asset(
        group_name="evaluation",
        partitions_def=partitions.reference,
        owners=OWNERS,
        kinds={"pytorch", "huggingface"},
        code_version=CODE_VERSIONS["reference_model"],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK, asset="reference_model", blocking=True, description=MODEL_IS_WHOLE
            )
        ],
        pool="io",
    )
    def reference_model(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """A model from elsewhere that the experiment's own are compared with.

        Its tokenizer may be another: bits per byte compare all the same.
        """
        lineage = workspace.lineage(experiment)
        name = context.partition_key
        with repeated_where_the_network_failed(context):
            record = steps_training.make_reference(lineage, name, cache=workspace.home.cache)
        artifact = lineage.store.reference(name)
        return dg.MaterializeResult(
            metadata=page(model_metadata(record, artifact), record, artifact),
            check_results=[model_is_whole(record, artifact, check_name=_CHECK)],
        )

    return [reference_model]
