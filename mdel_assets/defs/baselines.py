"""Baseline assets: what the experts are judged against, each trained as they are."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from mdel_assets.defs.absence import PartitionsThatAre, leaving_out_absent
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.metadata import OWNERS
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.defs.training import FROZEN_UNCHANGED, trained_partitions, trained_result
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS

_CHECK = "frozen_weights_unchanged"


def baseline_assets(
    experiment: Experiment, partitions: Partitions, compute: Compute
) -> list[dg.AssetsDefinition]:
    """Return those baselines of the group ``training`` that the experiment asks for."""
    found = []
    if experiment.baselines.dense_one:
        found.append(_dense_one_baseline(experiment))
    if experiment.baselines.dense:
        found.append(_dense_baseline(experiment))
    if partitions.random_split is not None:
        found.append(_random_split_expert(experiment, partitions.random_split, compute))
    return found


def _asset(
    name: str,
    *,
    partitions_def: dg.StaticPartitionsDefinition | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    output_required: bool = True,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator that makes a function the baseline called ``name``."""
    datasets = dg.AssetDep("domain_dataset", partition_mapping=dg.AllPartitionMapping())
    return dg.asset(
        name=name,
        group_name="training",
        output_required=output_required,
        partitions_def=partitions_def,
        deps=[datasets, "seed_model"],
        owners=OWNERS,
        kinds={"pytorch", "huggingface"},
        code_version=CODE_VERSIONS[name],
        check_specs=[
            dg.AssetCheckSpec(_CHECK, asset=name, blocking=True, description=FROZEN_UNCHANGED)
        ],
        backfill_policy=backfill_policy,
        pool="gpu",
    )


def _dense_one_baseline(experiment: Experiment) -> dg.AssetsDefinition:
    @_asset("dense_one_baseline")
    def dense_one_baseline(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """The seed's same layers trained on all domains, with as many tokens as one expert.

        Much of what an expert or an average of experts gains over the seed is plain further
        training; this model has had as much of it.
        """
        lineage = workspace.lineage(experiment)
        record = compute.make(context, experiment, workspace=workspace, tracking=tracking)
        return trained_result(record, lineage.store.dense_one())

    return dense_one_baseline


def _dense_baseline(experiment: Experiment) -> dg.AssetsDefinition:
    @_asset("dense_baseline")
    def dense_baseline(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """The seed's same layers trained on all domains, with as many tokens as all experts have.

        One model for the compute of all experts: what they, merged or together, must beat.
        """
        lineage = workspace.lineage(experiment)
        record = compute.make(context, experiment, workspace=workspace, tracking=tracking)
        return trained_result(record, lineage.store.dense())

    return dense_baseline


def _random_split_expert(
    experiment: Experiment, numbers: PartitionsThatAre, compute: Compute
) -> dg.AssetsDefinition:
    @_asset(
        "random_split_expert",
        partitions_def=numbers,
        backfill_policy=compute.backfill_policy,
        output_required=False,
    )
    @leaving_out_absent
    def random_split_expert(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """An expert of no domain: one expert's tokens, from documents dealt at random.

        As many as there are experts, merged and weighed together in the same ways: what they give
        together needs no domains, and the rest is what domains are worth.
        """
        lineage = workspace.lineage(experiment)
        made = compute.make_all(
            context,
            experiment,
            context.partition_keys,
            workspace=workspace,
            tracking=tracking,
        )
        return trained_partitions(context, made, artifact_of=lineage.store.random_expert)

    return random_split_expert
