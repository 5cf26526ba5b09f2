"""What the finished line of the pico experiment holds, and how to look at one asset of it again."""

import dagster as dg

from mdel_assets.defs.graph import build_definitions

MODELS = [
    "seed",
    "dense-one",
    "dense",
    "expert-github",
    "expert-arxiv",
    "expert-freelaw",
    "random-1",
    "random-2",
    "random-3",
    "merged-mean-all",
    "merged-pair",
    "merged-random",
]


def materialize(experiment, home, asset, key, **options):
    job = build_definitions(experiment, home).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(asset)], partition_key=key, **options
        )
