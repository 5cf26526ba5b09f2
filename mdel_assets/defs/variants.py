"""The assets of a sweep: experts trained in other ways, and the report that compares them."""

import dagster as dg

from mdel_assets import steps_sweep
from mdel_assets.defs import columns
from mdel_assets.defs.absence import leaving_out_absent
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.metadata import OWNERS, chart, page, table
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.defs.training import FROZEN_UNCHANGED, trained_partitions
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS

_CHECK = "frozen_weights_unchanged"


def variant_assets(
    experiment: Experiment, partitions: Partitions, compute: Compute
) -> list[dg.AssetsDefinition]:
    """Return `variant_expert` and `sweep_report`; none where the experiment has no variants."""
    if partitions.variant is None:
        return []
    backfill_policy = compute.backfill_policy

    @dg.asset(
        group_name="training",
        output_required=False,
        partitions_def=partitions.variant,
        deps=[
            dg.AssetDep("domain_dataset", partition_mapping=dg.AllPartitionMapping()),
            "seed_model",
        ],
        owners=OWNERS,
        kinds={"pytorch", "huggingface"},
        code_version=CODE_VERSIONS["variant_expert"],
        check_specs=[
            dg.AssetCheckSpec(
                _CHECK, asset="variant_expert", blocking=True, description=FROZEN_UNCHANGED
            )
        ],
        backfill_policy=backfill_policy,
        pool="gpu",
    )
    @leaving_out_absent
    def variant_expert(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """An expert trained with some settings changed, as `variants` in the experiment has them.

        Other layers, another learning rate, or the domain's own documents only.
        """
        lineage = workspace.lineage(experiment)
        made = compute.make_all(
            context,
            experiment,
            context.partition_keys,
            workspace=workspace,
            tracking=tracking,
        )
        return trained_partitions(context, made, artifact_of=lineage.store.variant)

    @dg.asset(
        group_name="evaluation",
        deps=[dg.AssetDep("token_scores", partition_mapping=dg.AllPartitionMapping())],
        owners=OWNERS,
        kinds={"parquet", "matplotlib"},
        code_version=CODE_VERSIONS["sweep_report"],
        metadata=columns.below(columns.SWEEP_REPORT),
    )
    def sweep_report(workspace: Workspace) -> dg.MaterializeResult:
        """What each variant gains on its own domain and on general text, beside the expert.

        Changes against the seed in bits per byte, with paired 95 % intervals.
        """
        from mdel_assets.evaluation.sweep import draw_sweep, sweep_markdown, sweep_rows

        lineage = workspace.lineage(experiment)
        record = steps_sweep.make_sweep_report(lineage)
        entries = steps_sweep.read_sweep(lineage)
        rows = sweep_rows(entries)
        shown = {
            "changes": dg.MetadataValue.md(sweep_markdown(entries)),
            "sweep": chart(draw_sweep(entries), "what each variant gains"),
            "rows": table(rows),
            columns.ROW_COUNT: len(rows),
        }
        return dg.MaterializeResult(metadata=page(shown, record, lineage.store.sweep()))

    return [variant_expert, sweep_report]
