"""Merging assets: merged models."""

import json
from typing import Any

import dagster as dg

from mdel_assets import steps_merging
from mdel_assets.defs.metadata import OWNERS, provenance, table
from mdel_assets.defs.partitions import Partitions
from mdel_assets.defs.resources import Workspace
from mdel_assets.experiment import Experiment
from mdel_assets.lineage import CODE_VERSIONS
from mdel_assets.merging.members import recipe_parameters
from mdel_assets.tensor_files import TensorFolder


def merging_assets(experiment: Experiment, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``merging``; none where the experiment has no recipe."""
    if partitions.recipe is None:
        return []
    models: list[Any] = [
        dg.AssetDep("expert_model", partition_mapping=partitions.experts_of_recipe),
        "seed_model",
    ]
    if partitions.random_split is not None:
        random = dg.AssetDep("random_split_expert", partition_mapping=partitions.random_of_recipe)
        models.append(random)

    @dg.asset(
        group_name="merging",
        partitions_def=partitions.recipe,
        deps=models,
        owners=OWNERS,
        kinds={"pytorch", "huggingface"},
        code_version=CODE_VERSIONS["merged_model"],
        check_specs=[
            dg.AssetCheckSpec("tensors_finite_and_shaped", asset="merged_model", blocking=True)
        ],
        pool="io",
    )
    def merged_model(
        context: dg.AssetExecutionContext, workspace: Workspace
    ) -> dg.MaterializeResult:
        """One model made of several, by one recipe of the experiment.

        Names, shapes and tokenizers are compared before anything is written; tensors stream from
        the inputs' files to the output's.
        """
        lineage = workspace.lineage(experiment)
        recipe = context.partition_key
        record = steps_merging.make_merged(lineage, recipe)
        artifact = lineage.store.merged(recipe)
        seed_folder = lineage.store.seed_model().folder
        with TensorFolder(artifact.folder) as ours, TensorFolder(seed_folder) as seeds:
            same_shapes = ours.shapes == seeds.shapes
        non_finite = record.details["non_finite"]
        sound = dg.AssetCheckResult(
            passed=same_shapes and not non_finite,
            check_name="tensors_finite_and_shaped",
            metadata={"non_finite": dg.MetadataValue.json(non_finite), "same_shapes": same_shapes},
        )
        members = [
            {"model": member.name, "parameters": json.dumps(recipe_parameters(member))}
            for member in lineage.members(recipe).models
        ]
        metadata = {
            "merge_method": record.config["merge_method"],
            "models": table(members),
            "num_tensors": record.details["num_tensors"],
            "num_copied_tensors": record.details["num_copied_tensors"],
            "num_parameters": record.details["num_parameters"],
            **provenance(record, artifact),
        }
        return dg.MaterializeResult(metadata=metadata, check_results=[sound])

    return [merged_model]
