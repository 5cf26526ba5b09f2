"""Training assets: the seed model and the experts."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg

from mdel_assets.defs.compute import Compute
from mdel_assets.defs.data_metadata import tokens_per_byte
from mdel_assets.defs.line_assets import LineAssets
from mdel_assets.defs.metadata import (
    barring,
    chart,
    frozen_check,
    link,
    model_address,
    note_partitions,
    page,
    result_of,
    rounded,
    table,
)
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record
from mdel_assets.training.results import ExpertResult, SeedResult, TrainingHistory

MODEL_IS_WHOLE = (
    "The stored tensors have as many parameters as the model, and the tokenizer is in the folder."
)
_FROZEN = "frozen_weights_unchanged"
_FROZEN_UNCHANGED = "Every tensor outside the trained layers equals the seed's to the bit."

# What more a model's page shows, by key.
_Also = Callable[[str], Mapping[str, Any]]


def training_assets(line: LineAssets, compute: Compute) -> list[dg.AssetsDefinition]:
    """Return seed and experts, of the group ``training``; ``compute`` says how to backfill them."""
    experiment = line.experiment

    @line.asset(
        "seed_model",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={"seed_loads": MODEL_IS_WHOLE},
        pool="gpu",
    )
    def seed_model(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """The model that every expert branches from.

        It comes from the Hub or from a folder. Or, as in the sample, a tokenizer and a small model
        are trained from scratch on the domains' own training text.
        """
        lineage = workspace.lineage(experiment)
        record = compute.make(context, experiment, workspace=workspace, tracking=tracking)
        artifact = lineage.artifact("seed_model")
        return result_of(
            record,
            artifact,
            model_metadata(record, artifact),
            model_is_whole(record, artifact, check_name="seed_loads"),
        )

    expert_model = trained_asset(
        line,
        "expert_model",
        backfill_policy=compute.backfill_policy("expert_model"),
        also_of=_text_of_domain,
        description="""
        The seed model with its chosen layers trained on one domain's dataset.

        Everything outside the chosen layers equals the seed to the bit. A training that was killed
        goes on from its last checkpoint. The domains of a run train at the same time where they are
        jobs on a cluster, and one that fails does not stop the others.
        """,
    )
    return [seed_model, expert_model]


def trained_asset(
    line: LineAssets,
    kind: str,
    *,
    description: str,
    backfill_policy: dg.BackfillPolicy | None = None,
    also_of: Callable[[Lineage], _Also] | None = None,
) -> dg.AssetsDefinition:
    """Return the asset of seed models with some layers trained.

    ``also_of`` adds to a model's page.
    """
    experiment, is_partitioned = line.experiment, line.partitions.of(kind) is not None

    @line.asset(
        kind,
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={_FROZEN: _FROZEN_UNCHANGED},
        backfill_policy=backfill_policy,
        pool="gpu",
        description=description,
    )
    def train(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        lineage = workspace.lineage(experiment)
        if not is_partitioned:
            record = compute.make(context, experiment, workspace=workspace, tracking=tracking)
            return trained_result(record, lineage.artifact(kind))
        keys = context.partition_keys
        made = compute.make_all(context, experiment, keys, workspace=workspace, tracking=tracking)
        artifacts = {key: lineage.artifact(kind, key) for key in made.records}
        also: _Also = also_of(lineage) if also_of and made.records else lambda key: {}
        metadata = {
            key: _trained_metadata(record, artifacts[key], also=also(key))
            for key, record in made.records.items()
        }
        note_partitions(context, metadata, fails=bool(made.failures))
        made.raise_failures()
        return dg.MaterializeResult(check_results=[_frozen_unchanged(made.records, artifacts)])

    return train


def trained_result(record: Record, artifact: Artifact) -> dg.MaterializeResult:
    """Return a baseline's metadata, and whether its frozen tensors equal the seed's."""
    return dg.MaterializeResult(
        metadata=_trained_metadata(record, artifact, also={}),
        check_results=[_frozen_unchanged({artifact.key: record}, {artifact.key: artifact})],
    )


def _trained_metadata(
    record: Record, artifact: Artifact, *, also: Mapping[str, Any]
) -> dict[str, Any]:
    shown = _expert_metadata(artifact.all_details(record))
    return page({**shown, **also}, record, artifact)


def _frozen_unchanged(
    records: Mapping[str, Record], artifacts: Mapping[str, Artifact]
) -> dg.AssetCheckResult:
    """Return the check's result, naming changed tensors that had to stay the seed's."""
    found = {key: record.details["changed_though_frozen"] for key, record in records.items()}
    check = frozen_check(_FROZEN, found)
    return barring(check, [artifacts[key] for key, names in found.items() if names])


def _text_of_domain(lineage: Lineage) -> _Also:
    """Return what says how many tokens a domain's text has; the tokenizer is loaded once."""
    from mdel_assets.training.model_files import load_tokenizer

    tokenizer = load_tokenizer(lineage.required("seed_model"))

    def measure(domain: str) -> dict[str, Any]:
        train = lineage.required("domain_dataset", domain) / "train.parquet"
        return tokens_per_byte(train, domain, tokenizer)

    return measure


def model_is_whole(record: Record, artifact: Artifact, *, check_name: str) -> dg.AssetCheckResult:
    """Compare the stored tensors' parameter count with the model's; look for a tokenizer."""
    import math

    from mdel_assets.store.tensor_files import TensorFolder

    with TensorFolder(artifact.folder) as tensors:
        stored = sum(math.prod(shape) for shape in tensors.shapes.values())
    promised = SeedResult.of(record.details).num_parameters
    has_tokenizer = (artifact.folder / "tokenizer.json").is_file()
    passed = stored == promised and has_tokenizer
    check = dg.AssetCheckResult(
        passed=passed,
        check_name=check_name,
        metadata={"parameters_stored": stored, "parameters_of_model": promised},
    )
    return barring(check, [] if passed else [artifact])


def model_metadata(record: Record, artifact: Artifact) -> dict[str, Any]:
    """Return the metadata of a seed or reference model."""
    details = artifact.all_details(record)
    result = SeedResult.of(details)
    shown: dict[str, Any] = {}
    if result.history:
        shown["validation_loss"] = rounded(result.validation_loss)
        shown |= _history_metadata(result.history)
    return {
        **shown,
        "architecture": result.architecture,
        "num_parameters": result.num_parameters,
        "num_layers": result.num_layers,
        "vocab_rows": result.vocab_rows,
        **link("wandb", details.get("tracked_at")),
        **link("hub", model_address(record.config)),
    }


def _expert_metadata(details: Mapping[str, Any]) -> dict[str, Any]:
    result = ExpertResult.of(details)
    before, after = result.losses_before, result.losses_after
    losses = [
        {
            "split": split,
            "before": round(before[split], 4),
            "after": round(after[split], 4),
            "change": round(after[split] - before[split], 4),
        }
        for split in before
    ]
    return {
        **({"validation_losses": table(losses)} if losses else {}),
        **_history_metadata(result.history, before=before, after=after),
        "trained_layers": str(result.trained_layers),
        "num_trained_parameters": result.num_trained_parameters,
        "num_frozen_parameters": result.num_frozen_parameters,
        **link("wandb", details.get("tracked_at")),
    }


def _history_metadata(
    history: TrainingHistory,
    *,
    before: Mapping[str, float] = MappingProxyType({}),
    after: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    from mdel_assets.training.curve_charts import loss_chart, pace_charts

    losses = loss_chart(history.curves, before=before, after=after, num_steps=history.num_steps)
    making = {
        "num_processes": history.num_processes,
        "tokens_per_second": history.tokens_per_second,
    }
    return {
        "loss_curve": chart(losses, "loss"),
        "other_curves": chart(pace_charts(history.curves), "learning rate, gradient, pace"),
        "final_training_loss": rounded(history.final_loss),
        "num_steps": history.num_steps,
        "num_tokens": history.num_tokens,
        "num_epochs": round(history.num_epochs, 3),
        **{name: round(value) for name, value in making.items() if value is not None},
    }
