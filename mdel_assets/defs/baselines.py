"""Baseline assets: what the experts are judged against, each trained as they are."""

import functools

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.defs.training import (
    FROZEN_CHECK,
    FROZEN_UNCHANGED,
    trained_partitions,
    trained_result,
)


def baseline_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return those baselines of the group ``training`` that the experiment asks for."""
    found = []
    if line.has("dense_one_baseline"):
        found.append(_dense_one_baseline(line))
    if line.has("dense_baseline"):
        found.append(_dense_baseline(line))
    if line.has("random_split_expert"):
        found.append(_random_split_expert(line, compute))
    return found


def _dense_one_baseline(line: LineAssets) -> dg.AssetsDefinition:
    experiment = line.experiment

    @line.asset(
        "dense_one_baseline",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={FROZEN_CHECK: FROZEN_UNCHANGED},
        pool="gpu",
    )
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
        return trained_result(record, lineage.artifact("dense_one_baseline"))

    return dense_one_baseline


def _dense_baseline(line: LineAssets) -> dg.AssetsDefinition:
    experiment = line.experiment

    @line.asset(
        "dense_baseline",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={FROZEN_CHECK: FROZEN_UNCHANGED},
        pool="gpu",
    )
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
        return trained_result(record, lineage.artifact("dense_baseline"))

    return dense_baseline


def _random_split_expert(line: LineAssets, compute: Compute) -> dg.AssetsDefinition:
    experiment = line.experiment

    @line.asset(
        "random_split_expert",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={FROZEN_CHECK: FROZEN_UNCHANGED},
        backfill_policy=compute.backfill_policy,
        pool="gpu",
    )
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
        return trained_partitions(
            context, made, artifact_of=functools.partial(lineage.artifact, "random_split_expert")
        )

    return random_split_expert
