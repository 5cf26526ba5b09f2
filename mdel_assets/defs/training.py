"""Training assets: the seed model and the experts."""

import functools
from collections.abc import Callable, Mapping
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
    page,
    rounded,
    table,
)
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import Made
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.records import Record

MODEL_IS_WHOLE = (
    "The stored tensors have as many parameters as the model, and the tokenizer is in the folder."
)
FROZEN_CHECK = "frozen_weights_unchanged"
FROZEN_UNCHANGED = "Every tensor outside the trained layers equals the seed's to the bit."


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
        return dg.MaterializeResult(
            metadata=page(model_metadata(record, artifact), record, artifact),
            check_results=[model_is_whole(record, artifact, check_name="seed_loads")],
        )

    @line.asset(
        "expert_model",
        group="training",
        icons={"pytorch", "huggingface"},
        blocking_checks={FROZEN_CHECK: FROZEN_UNCHANGED},
        backfill_policy=compute.backfill_policy,
        pool="gpu",
    )
    def expert_model(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        compute: Compute,
        tracking: Tracking,
    ) -> dg.MaterializeResult:
        """The seed model with its chosen layers trained on one domain's dataset.

        Everything outside the chosen layers equals the seed to the bit. A killed training resumes
        from its last checkpoint. On a cluster the domains of a run train at the same time, and one
        that fails does not stop the others.
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
            context,
            made,
            artifact_of=functools.partial(lineage.artifact, "expert_model"),
            also_of=_text_of_domain(lineage),
        )

    return [seed_model, expert_model]


def trained_partitions(
    context: dg.AssetExecutionContext,
    made: Made,
    *,
    artifact_of: Callable[[str], Artifact],
    also_of: Callable[[str], Mapping[str, Any]] = lambda key: {},
) -> dg.MaterializeResult:
    """Record each partition that was made; raise where others failed."""
    metadata = {
        key: _trained_metadata(record, artifact_of(key), also=also_of(key))
        for key, record in made.records.items()
    }
    if made.failures:
        # Finished models are recorded even if the step fails.
        for key, entries in metadata.items():
            event = dg.AssetMaterialization(context.asset_key, partition=key, metadata=entries)
            context.log_event(event)
        made.raise_failures()
    for key, entries in metadata.items():
        context.add_asset_metadata(entries, partition_key=key)
    artifacts = {key: artifact_of(key) for key in made.records}
    return dg.MaterializeResult(check_results=[_frozen_unchanged(made.records, artifacts)])


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
    check = frozen_check(FROZEN_CHECK, found)
    return barring(check, [artifacts[key] for key, names in found.items() if names])


def _text_of_domain(lineage: Lineage) -> Callable[[str], dict[str, Any]]:
    """Return what says how many tokens a domain's text has; the tokenizer is loaded once."""
    from mdel_assets.training.model_files import load_tokenizer

    tokenizer = load_tokenizer(lineage.folder("seed_model"))

    def measure(domain: str) -> dict[str, Any]:
        train = lineage.folder("domain_dataset", domain) / "train.parquet"
        return tokens_per_byte(train, domain, tokenizer)

    return measure


def model_is_whole(record: Record, artifact: Artifact, *, check_name: str) -> dg.AssetCheckResult:
    """Compare the stored tensors' parameter count with the model's; look for a tokenizer."""
    import math

    from mdel_assets.store.tensor_files import TensorFolder

    with TensorFolder(artifact.folder) as tensors:
        stored = sum(math.prod(shape) for shape in tensors.shapes.values())
    promised = record.details["num_parameters"]
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
    shown: dict[str, Any] = {}
    if details["history"]:
        shown["validation_loss"] = rounded(details["validation_loss"])
        shown |= _history_metadata(details["history"])
    names = ("architecture", "num_parameters", "num_layers", "vocab_rows")
    return {
        **shown,
        **{name: details[name] for name in names},
        **link("wandb", details.get("tracked_at")),
        **link("hub", model_address(record.config)),
    }


def _expert_metadata(details: Mapping[str, Any]) -> dict[str, Any]:
    losses = [
        {
            "split": split,
            "before": round(before, 4),
            "after": round(details["losses_after"][split], 4),
            "change": round(details["losses_after"][split] - before, 4),
        }
        for split, before in details["losses_before"].items()
    ]
    return {
        **({"validation_losses": table(losses)} if losses else {}),
        **_history_metadata(details["history"], details),
        "trained_layers": str(details["trained_layers"]),
        "num_trained_parameters": details["num_trained_parameters"],
        "num_frozen_parameters": details["num_frozen_parameters"],
        **link("wandb", details.get("tracked_at")),
    }


def _making_metadata(history: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of this particular training (speed, charts), if it was kept."""
    return {
        name: round(history[name])
        for name in ("num_processes", "tokens_per_second")
        if name in history
    }


def _history_metadata(
    history: Mapping[str, Any], details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    from mdel_assets.training.curve_charts import loss_chart, pace_charts

    losses = loss_chart(
        history["curves"],
        before=(details or {}).get("losses_before", {}),
        after=(details or {}).get("losses_after", {}),
        num_steps=history["num_steps"],
    )
    return {
        "loss_curve": chart(losses, "loss"),
        "other_curves": chart(pace_charts(history["curves"]), "learning rate, gradient, pace"),
        "final_training_loss": rounded(history["final_loss"]),
        "num_steps": history["num_steps"],
        "num_tokens": history["num_tokens"],
        "num_epochs": round(history["num_epochs"], 3),
        **_making_metadata(history),
    }
