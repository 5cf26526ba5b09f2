"""The steps of the line that train models: as `steps.py`, one function per asset.

Where several processes train together, each of them takes the step; the first writes the artifact,
and all return when it is there.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdel_assets.artifacts import Artifact, Identity, Record
from mdel_assets.durable_files import file_digest, link_or_copy
from mdel_assets.experiment_fields import ExpertTraining, ModelSource
from mdel_assets.hub_sources import local_model
from mdel_assets.lineage import Lineage
from mdel_assets.makers import makes
from mdel_assets.steps import current_record
from mdel_assets.tracking import going_on_without, log_model
from mdel_assets.training.conditions import NO_CONDITIONS, Conditions
from mdel_assets.training.processes import ending_together, is_first_process, num_processes

# Trains into a folder (none where another process writes), with checkpoints in a work folder.
_Train = Callable[[Path | None, Path, Conditions], Any]
_PACE = "tokens_per_second"


def make_model(
    lineage: Lineage,
    kind: str,
    key: str = "",
    *,
    cache: Path,
    conditions: Conditions = NO_CONDITIONS,
) -> Record:
    """Make the model of asset ``kind`` and partition ``key``."""
    match kind:
        case "seed_model":
            return make_seed(lineage, cache=cache, conditions=conditions)
        case "expert_model":
            return make_expert(lineage, key, conditions=conditions)
        case "dense_baseline":
            return make_dense(lineage, conditions=conditions)
        case "dense_one_baseline":
            return make_dense_one(lineage, conditions=conditions)
        case "variant_expert":
            return make_variant(lineage, key, conditions=conditions)
        case "random_split_expert":
            return make_random_expert(lineage, key, conditions=conditions)
    raise ValueError(f"no model is called {kind}")


def make_seed(lineage: Lineage, *, cache: Path, conditions: Conditions = NO_CONDITIONS) -> Record:
    """Adopt or pretrain the seed model."""
    from mdel_assets.training.seed import pretrain_seed

    seed = lineage.experiment.seed_model
    if seed.path:
        source = ModelSource(path=seed.path, revision=seed.revision)
        return _adopt(lineage, "seed_model", "", source=source, cache=cache)

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        assert seed.pretrain
        datasets = {key: lineage.store.dataset(key).folder for key in lineage.present_domains()}
        return pretrain_seed(
            seed.pretrain, folder, datasets=datasets, work_folder=work, conditions=conditions
        )

    return _make(lineage, "seed_model", "", train=train, conditions=conditions)


@makes("reference_model")
def make_reference(lineage: Lineage, name: str, *, cache: Path) -> Record:
    """Fetch a model to compare with."""
    source = lineage.experiment.evaluation.references[name]
    return _adopt(lineage, "reference_model", name, source=source, cache=cache)


def make_expert(lineage: Lineage, domain: str, *, conditions: Conditions = NO_CONDITIONS) -> Record:
    """Train the expert of one domain, going on from a checkpoint where there is one."""
    train = _expert(lineage, domain, training=lineage.experiment.training)
    return _make(lineage, "expert_model", domain, train=train, conditions=conditions)


def make_variant(lineage: Lineage, name: str, *, conditions: Conditions = NO_CONDITIONS) -> Record:
    """Train one expert of a sweep."""
    variant = lineage.experiment.variants[name]
    training = lineage.experiment.variant_training(name)
    own = variant.domain if variant.text == "domain" else None
    train = _expert(lineage, variant.domain, training=training, only_domain=own)
    return _make(lineage, "variant_expert", name, train=train, conditions=conditions)


def _expert(
    lineage: Lineage, domain: str, *, training: ExpertTraining, only_domain: str | None = None
) -> _Train:
    from mdel_assets.training.expert import train_expert

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        return train_expert(
            training,
            seed_folder=lineage.store.seed_model().folder,
            dataset_folder=lineage.store.dataset(domain).folder,
            folder=folder,
            work_folder=work,
            only_domain=only_domain,
            conditions=conditions,
        )

    return train


def make_dense(lineage: Lineage, *, conditions: Conditions = NO_CONDITIONS) -> Record:
    """Train the seed on as many tokens as all experts together, of all their datasets."""
    count = len(lineage.present_domains())
    return _make_baseline(lineage, "dense_baseline", num_experts=count, conditions=conditions)


def make_dense_one(lineage: Lineage, *, conditions: Conditions = NO_CONDITIONS) -> Record:
    """Train the seed on as many tokens as one expert, of all their datasets."""
    return _make_baseline(lineage, "dense_one_baseline", conditions=conditions)


def make_random_expert(
    lineage: Lineage, number: str, *, conditions: Conditions = NO_CONDITIONS
) -> Record:
    """Train one expert of the random split: one expert's tokens, of documents dealt at random."""
    return _make_baseline(lineage, "random_split_expert", number, conditions=conditions)


def _make_baseline(
    lineage: Lineage, kind: str, key: str = "", *, num_experts: int = 1, conditions: Conditions
) -> Record:
    """Train one model on as many tokens as ``num_experts`` experts read; ``key`` numbers a part."""
    from mdel_assets.training.baseline import Part, train_baseline

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        domains = lineage.present_domains()
        return train_baseline(
            lineage.experiment.training,
            num_experts=num_experts,
            seed_folder=lineage.store.seed_model().folder,
            dataset_folders={domain: lineage.store.dataset(domain).folder for domain in domains},
            folder=folder,
            work_folder=work,
            part=Part(int(key) - 1, len(domains)) if key else None,
            conditions=conditions,
        )

    return _make(lineage, kind, key, train=train, conditions=conditions)


def _make(
    lineage: Lineage, kind: str, key: str, *, train: _Train, conditions: Conditions
) -> Record:
    """Train and publish a model, tracked under its own name."""
    from mdel_assets.training.curves import tracked_run

    if current := current_record(lineage, kind, key):
        return current
    identity = lineage.identity(kind, key)
    artifact = lineage.artifact(kind, key)
    if mended := _mended(lineage, artifact, identity):
        return mended
    name = f"{kind.removesuffix('_model')}-{key}".strip("-").replace("_", "-")
    work = lineage.store.work_folder(f"{kind}-{key}-{identity.fingerprint}".replace("--", "-"))
    with ending_together():
        if not is_first_process():
            train(None, work, conditions)
        else:
            with (
                artifact.staging() as stage,
                tracked_run(
                    conditions.tracker,
                    name,
                    tags=[key or kind],
                    config=identity.config,
                    work_folder=work,
                ) as run,
            ):
                result = train(stage, work, dataclasses.replace(conditions, run=run))
                details = dataclasses.asdict(result)
                if run is not None:
                    with going_on_without("keep the outcome"):
                        run.summary.update(_summary(details))
                tracked_at = run.url if run is not None and not run.offline else None
                record = artifact.publish(
                    stage,
                    identity,
                    making=_taken_out(details) | {"tracked_at": tracked_at},
                    details=details,
                    links_from=_linked(lineage, kind),
                )
                if run is not None:
                    log_model(
                        run,
                        name,
                        folder=artifact.folder,
                        fingerprint=record.fingerprint,
                        inputs=record.inputs,
                    )
            shutil.rmtree(work)
    return artifact.require()


def _mended(lineage: Lineage, artifact: Artifact, identity: Identity) -> Record | None:
    """Link anew the damaged files that a model shares with its seed; return its record if whole.

    Where the seed's own file was damaged, those of all its experts were: a training is dearer.
    """
    source = _linked(lineage, artifact.kind)
    record = artifact.last_record()
    is_same = record is not None and record.fingerprint == identity.fingerprint
    if source is None or record is None or not is_same or num_processes() > 1:
        return None
    whole = {file["xxh3"]: source.folder / name for name, file in source.require().files.items()}
    for name, file in record.files.items():
        path = artifact.folder / name
        is_damaged = not path.is_file() or file_digest(path) != file["xxh3"]
        if is_damaged and file["xxh3"] in whole:
            link_or_copy(whole[file["xxh3"]], path)
    return artifact.holds(identity.fingerprint)


def _taken_out(details: dict[str, Any]) -> dict[str, Any]:
    """Take out of a training's outcome what another training of the same model would not have."""
    history = details["history"]
    curve = {_PACE: history["curves"].pop(_PACE, [])}
    return {
        "history": {
            _PACE: history.pop(_PACE),
            "num_processes": history.pop("num_processes"),
            "curves": curve,
        }
    }


def _linked(lineage: Lineage, kind: str) -> Artifact | None:
    """Return the artifact that a model's folder may have links to."""
    return None if kind == "seed_model" else lineage.store.seed_model()


def _summary(details: dict[str, Any]) -> dict[str, float]:
    """Return a training's outcome as W&B's summary has it."""
    return {
        f"{when}/{split}": value
        for when in ("losses_before", "losses_after")
        for split, value in details.get(when, {}).items()
    }


def _adopt(lineage: Lineage, kind: str, key: str, *, source: ModelSource, cache: Path) -> Record:
    from mdel_assets.training.seed import adopt_model

    if current := current_record(lineage, kind, key):
        return current
    identity = lineage.identity(kind, key)
    artifact = lineage.artifact(kind, key)
    commit = identity.config.get("commit")
    place = lineage.experiment.place_of_model(source.path)
    path = local_model(place, revision=source.revision, commit=commit)
    with artifact.staging() as stage:
        result = adopt_model(source.model_copy(update={"path": path}), stage, cache=cache)
        return artifact.publish(stage, identity, details=dataclasses.asdict(result))
