"""Baseline assets: models to compare the experts with, trained in the same way."""

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.training import trained_asset

_DESCRIPTIONS = {
    "dense_one_baseline": """
    The seed's same layers trained on all domains, with as many tokens as one expert.

    Much of what an expert or an average of experts gains over the seed is plain further
    training; this model has had as much of it.
    """,
    "dense_baseline": """
    The seed's same layers trained on all domains, with as many tokens as all experts have.

    One model for the compute of all experts: what they, merged or together, must beat.
    """,
    "random_split_expert": """
    An expert of no domain: one expert's tokens, from documents dealt at random.

    As many as there are experts, merged and weighed together in the same ways: what they
    give together needs no domains, and the rest is what domains are worth.
    """,
}


def baseline_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return those baselines of the group ``training`` that the experiment asks for."""
    return [
        trained_asset(
            line,
            kind,
            description=description,
            backfill_policy=compute.backfill_policy(kind) if line.partitions.of(kind) else None,
        )
        for kind, description in _DESCRIPTIONS.items()
        if line.has(kind)
    ]
