"""Merging assets: merged models."""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg

from mdel_assets.defs import columns
from mdel_assets.defs.compute import Compute
from mdel_assets.defs.line_assets import AllInOneRun, LineAssets
from mdel_assets.defs.metadata import (
    Described,
    barring,
    chart,
    frozen_check,
    note_partitions,
    page,
    results_of,
    rounded,
    shortened,
    table,
)
from mdel_assets.defs.resources import Workspace
from mdel_assets.experiment.merge_recipe import MergeRecipe
from mdel_assets.line.lineage import Lineage
from mdel_assets.merging.members import recipe_parameters
from mdel_assets.merging.recipe_members import weighted_recipe
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record
from mdel_assets.store.tensor_files import TensorFolder
from mdel_assets.store.tensor_names import Layers, common_name, is_input_embedding


def merging_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return the assets of the group ``merging``; a merge only if there is a recipe."""
    experiment = line.experiment

    @line.asset(
        "layer_differences",
        group="merging",
        icons={"parquet"},
        metadata=columns.below(columns.LAYER_DIFFERENCES),
        checks={
            "frozen_tensors_equal": "No tensor that the expert's training froze differs from the "
            "seed's."
        },
        backfill_policy=AllInOneRun(),
        pool="io",
    )
    def layer_differences(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """How far each expert moved from the seed, by layer, and which experts moved alike.

        For each tensor, `differences.parquet` holds the relative L2 change, the L1 change, the
        largest change and whether the bytes are equal. `cosines.parquet` holds the cosine with
        every other expert's change.
        """
        lineage = workspace.lineage(experiment)
        made = compute.made(context, lineage, context.partition_keys)
        pages = {
            key: _differences_metadata(record, lineage.artifact("layer_differences", key))
            for key, record in made.records.items()
        }
        note_partitions(context, pages, fails=bool(made.failures))
        made.raise_failures()
        return dg.MaterializeResult(check_results=[_frozen_tensors_equal(made.records)])

    if not line.has("merged_model"):
        return [layer_differences]

    @line.asset(
        "merged_model",
        group="merging",
        icons={"pytorch", "huggingface"},
        blocking_checks={
            "tensors_finite_and_shaped": "Every number is finite, and every tensor has the seed's "
            "shape."
        },
        pool="io",
        backfill_policy=compute.backfill_policy("merged_model"),
    )
    def merged_model(
        context: dg.AssetExecutionContext, workspace: Workspace, compute: Compute
    ) -> dg.MaterializeResult:
        """One model merged from several, by one recipe of the experiment.

        Names, shapes and tokenizers are compared before anything is written; tensors stream from
        the inputs' files to the output's.
        """
        lineage = workspace.lineage(experiment)

        def describe(record: Record, artifact: Artifact) -> Described:
            return _merge_metadata(lineage, record), [_is_sound(lineage, record, artifact)]

        made = compute.made(context, lineage, context.partition_keys)
        return results_of(context, made, describe, lineage=lineage)

    return [layer_differences, merged_model]


def _is_sound(lineage: Lineage, record: Record, artifact: Artifact) -> dg.AssetCheckResult:
    """Check that a merged model's numbers are finite, and that its shapes are the seed's.

    With slices, which may give it another number of layers, only the kinds of layers are compared.
    With a tokenizer of its own, embedding and output layer may have another number of rows.
    """
    seed_folder = lineage.required("seed_model")
    recipe = lineage.experiment.merges[record.key]
    with TensorFolder(artifact.folder) as ours, TensorFolder(seed_folder) as seeds:
        same_shapes = _shapes(ours, recipe) == _shapes(seeds, recipe)
    non_finite = record.details["non_finite"]
    sound = dg.AssetCheckResult(
        passed=same_shapes and not non_finite,
        check_name="tensors_finite_and_shaped",
        metadata={"non_finite": dg.MetadataValue.json(non_finite), "same_shapes": same_shapes},
    )
    return barring(sound, [] if sound.passed else [artifact])


def _shapes(folder: TensorFolder, recipe: MergeRecipe) -> dict[str, set[tuple[int, ...]]]:
    """Return the shapes of tensors that a merge by ``recipe`` keeps.

    With slices, they are those of all layers together.
    """
    layers = Layers.of(folder.shapes)
    found: dict[str, set[tuple[int, ...]]] = {}
    for name, shape in folder.shapes.items():
        has_tokens = is_input_embedding(name) or common_name(name).startswith("lm_head.")
        kept = shape[1:] if recipe.vocabulary and has_tokens else shape
        found.setdefault(layers.part_of(name) if recipe.slices else name, set()).add(tuple(kept))
    return found


def _merge_metadata(lineage: Lineage, record: Record) -> dict[str, Any]:
    members = weighted_recipe(lineage, record.key)[1]
    rows = [(one.name, recipe_parameters(one)) for one in members.models]
    if members.slices:
        rows = [
            (one.name, {"layer_range": [one.first, one.last], **recipe_parameters(one)})
            for part in members.slices
            for one in (*part.models, part.base)
            if one
        ]
    return {
        "merge_method": record.config["merge_method"],
        "models": table(
            [{"model": n, "parameters": json.dumps(shortened(given))} for n, given in rows]
        ),
        "num_tensors": record.details["num_tensors"],
        "num_copied_tensors": record.details["num_copied_tensors"],
        "num_parameters": record.details["num_parameters"],
    }


def _differences_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    from mdel_assets.charts import line_chart
    from mdel_assets.merging.layer_differences import curves_by_part

    drawn = line_chart(
        curves_by_part(artifact.folder),
        x_label="layer",
        y_label="relative L2 change",
        title=f"How far {record.key} moved",
    )
    cosines = record.details["mean_cosines"]
    shown = {
        "changes": chart(drawn, "changes by layer"),
        "cosines": table([{"expert": e, "cosine": rounded(float(c))} for e, c in cosines.items()]),
        "relative_l2": rounded(record.details["relative_l2"]),
        "num_changed_tensors": record.details["num_changed_tensors"],
        "num_tensors": record.details["num_tensors"],
        columns.ROW_COUNT: record.details["num_tensors"],
    }
    return page(shown, record, artifact)


def _frozen_tensors_equal(records: Mapping[str, Record]) -> dg.AssetCheckResult:
    """Pass where no tensor changed that the expert's record calls frozen."""
    found = {key: record.details["changed_though_frozen"] for key, record in records.items()}
    return frozen_check("frozen_tensors_equal", found)
