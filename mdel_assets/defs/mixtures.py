"""The asset of mixtures of experts."""

from typing import Any

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import Described, barring, results_of, rounded
from mdel_assets.defs.resources import Workspace
from mdel_assets.merging.model_card import CARD_NAME
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record
from mdel_assets.training.results import history_of

_FINITE = "tensors_finite"


def mixture_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return the asset of mixtures, where the experiment has one."""
    experiment = line.experiment
    if not line.has("moe_model"):
        return []

    @line.asset(
        "moe_model",
        group="merging",
        icons={"pytorch", "huggingface"},
        blocking_checks={_FINITE: "Every number is finite in the dtype of the mixture."},
        pool="gpu",
        backfill_policy=compute.backfill_policy("moe_model"),
    )
    def moe_model(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """One mixture of experts that transformers loads, made of experts' feed-forward blocks.

        Matrices stream from the experts' files to their places. Gates are made of what each
        domain's training text looks like to the seed, and trained from there on where the recipe
        says so. An expert that a recipe no longer names leaves the mixture that is there.
        """
        lineage = workspace.lineage(experiment)
        made = compute.made(context, lineage, context.partition_keys)
        return results_of(context, made, _describe, lineage=lineage)

    return [moe_model]


def _describe(record: Record, artifact: Artifact) -> Described:
    non_finite = record.details["non_finite"]
    sound = dg.AssetCheckResult(
        passed=not non_finite,
        check_name=_FINITE,
        metadata={"non_finite": dg.MetadataValue.json(non_finite)},
    )
    card = dg.MetadataValue.md((artifact.folder / CARD_NAME).read_text("utf-8"))
    failed = [] if sound.passed else [artifact]
    return {**_shown(record), "card": card}, [barring(sound, failed)]


def _shown(record: Record) -> dict[str, Any]:
    details = record.details
    shown: dict[str, Any] = {
        "router": details["router"],
        "experts": ", ".join(details["experts"]),
        "experts_per_token": record.config["experts_per_token"],
        "num_mixture_layers": len(details["mixture_layers"]),
        "num_parameters": details["num_parameters"],
        "num_active_parameters": details["num_active_parameters"],
    }
    if history := history_of(details):
        shown["final_loss"] = rounded(history.final_loss)
    return shown
