"""The assets of further replicates: what the line has, made again with other training seeds."""

import functools

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import note_partitions, page
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.defs.training import trained_asset
from mdel_assets.evaluation.steps import score_side_by_side
from mdel_assets.line.kind import Kind

_SCORES, _SEED = "token_scores", "seed_model"
_GROUPS = {
    _SEED: "training",
    "searched_merge": "merging",
    "merged_model": "merging",
    "moe_model": "merging",
    _SCORES: "evaluation",
    "perplexity_report": "evaluation",
}
_POOLS = {"merged_model": "io", "perplexity_report": None}


def replicate_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return the assets of further replicates; none where the experiment has one replicate."""
    found = []
    for kind in line.lineage.registry.values():
        if not (kind.replicate_of and kind.is_in(line.experiment)):
            continue
        if kind.replicate_of in _GROUPS:
            found.append(_asset(line, kind))
        else:
            asset = trained_asset(
                line,
                kind.name,
                backfill_policy=compute.backfill_policy(kind.name),
                description=_description(kind),
            )
            found.append(asset)
    return found


def _description(kind: Kind) -> str:
    return (
        f"`{kind.replicate_of}` of further replicates: the same, with other training seeds.\n\n"
        f"A key ends with `@` and the number of its replicate; of what there is one of, the key is "
        f"this number."
    )


def _asset(line: LineAssets, kind: Kind) -> dg.AssetsDefinition:
    experiment = line.experiment
    score = functools.partial(score_side_by_side, kind=kind.name)

    @line.asset(
        kind.name,
        group=_GROUPS[kind.replicate_of],
        icons={"parquet" if kind.replicate_of == _SCORES else "pytorch"},
        backfill_policy=AllInOneRun(),
        pool=_POOLS.get(kind.replicate_of, "gpu"),
        description=_description(kind),
    )
    def replicate(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        lineage, keys = workspace.lineage(experiment), context.partition_keys
        if kind.replicate_of == _SEED:
            made = compute.make_all(
                context, experiment, keys, workspace=workspace, tracking=tracking
            )
        else:
            here = score if kind.replicate_of == _SCORES else None
            made = compute.made(context, lineage, keys, here=here)
        metadata = {
            key: page(record.counts, record, lineage.artifact(kind.name, key))
            for key, record in made.records.items()
        }
        note_partitions(context, metadata, fails=bool(made.failures))
        made.raise_failures()
        return dg.MaterializeResult()

    return replicate
