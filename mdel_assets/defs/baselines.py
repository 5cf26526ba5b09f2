"""Baseline assets: models to compare the experts with, trained in the same way."""

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
        """The same layers of the seed trained on all domains, with as many tokens as one expert.

        Much of what an expert or an average of experts gains over the seed comes from plain further
        training. This model had the same amount of further training.
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
        """The same layers of the seed trained on all domains, with the tokens of all experts.

        One model with the compute of all experts: the experts, merged or as an ensemble, must beat
        it.
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
        """An expert without a domain: one expert's tokens, from randomly dealt documents.

        There are as many as domain experts, and they are merged and combined in the same ways. What
        they gain together needs no domains; the rest of the experts' gain is due to domains.
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
