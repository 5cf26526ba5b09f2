"""The asset of mixtures of experts."""

from typing import Any

import dagster as dg

from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import barring, page, rounded
from mdel_assets.defs.resources import Workspace
from mdel_assets.line.making import make_one
from mdel_assets.merging.model_card import CARD_NAME
from mdel_assets.store.records import Record

_FINITE = "tensors_finite"


def mixture_assets(line: LineAssets) -> list[dg.AssetsDefinition]:
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
    )
    def moe_model(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
        """One mixture of experts that transformers loads, made of experts' feed-forward blocks.

        Matrices stream from the experts' files to their places. Gates are made of what each
        domain's training text looks like to the seed, and trained from there on where the recipe
        says so. An expert that a recipe no longer names leaves the mixture that is there.
        """
        lineage = workspace.lineage(experiment)
        name = context.partition_key
        record = make_one(lineage, "moe_model", name)
        artifact = lineage.artifact("moe_model", name)
        non_finite = record.details["non_finite"]
        sound = dg.AssetCheckResult(
            passed=not non_finite,
            check_name=_FINITE,
            metadata={"non_finite": dg.MetadataValue.json(non_finite)},
        )
        metadata = {
            **_shown(record),
            "card": dg.MetadataValue.md((artifact.folder / CARD_NAME).read_text("utf-8")),
        }
        return dg.MaterializeResult(
            metadata=page(metadata, record, artifact),
            check_results=[barring(sound, [] if sound.passed else [artifact])],
        )

    return [moe_model]


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
    if history := details.get("history"):
        shown["final_loss"] = rounded(history["final_loss"])
    return shown
