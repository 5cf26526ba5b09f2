"""Baseline assets: models to compare the experts with, trained in the same way."""

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.training import trained_asset


def baseline_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return those baselines of the group ``training`` that the experiment asks for."""
    found = []
    if line.has("dense_one_baseline"):
        dense_one = trained_asset(
            line,
            "dense_one_baseline",
            description="""
            The seed's same layers trained on all domains, with as many tokens as one expert.

            Much of what an expert or an average of experts gains over the seed is plain further
            training; this model has had as much of it.
            """,
        )
        found.append(dense_one)
    if line.has("dense_baseline"):
        dense = trained_asset(
            line,
            "dense_baseline",
            description="""
            The seed's same layers trained on all domains, with as many tokens as all experts have.

            One model for the compute of all experts: what they, merged or together, must beat.
            """,
        )
        found.append(dense)
    if line.has("random_split_expert"):
        random_split = trained_asset(
            line,
            "random_split_expert",
            backfill_policy=compute.backfill_policy("random_split_expert"),
            description="""
            An expert of no domain: one expert's tokens, from documents dealt at random.

            As many as there are experts, merged and weighed together in the same ways: what they
            give together needs no domains, and the rest is what domains are worth.
            """,
        )
        found.append(random_split)
    return found
