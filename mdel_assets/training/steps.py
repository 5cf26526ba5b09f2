"""The steps that train or fetch a model: each writes one kind of artifact.

They are declared in `kinds.py`; `mdel_assets.line.making` calls them. Where several processes train
together, each of them takes the step, and only the first has a staging folder.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdel_assets.experiment.fields import ExpertTraining, ModelSource
from mdel_assets.hub.sources import local_model
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.kind import Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.store.artifacts import Artifact
from mdel_assets.tracking import going_on_without, log_model

# Trains into a folder (none where another process writes), with checkpoints in a work folder.
_Train = Callable[[Path | None, Path, Conditions], Any]
_PACE = "tokens_per_second"


def make_seed(task: Task) -> Written:
    """Adopt or pretrain the seed model."""
    from mdel_assets.training.seed import pretrain_seed

    seed = task.lineage.experiment.seed_model
    if seed.path:
        return _adopt(task, ModelSource(path=seed.path, revision=seed.revision))
    pretrain = seed.pretrain
    assert pretrain

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        return pretrain_seed(
            pretrain,
            folder,
            datasets=_datasets(task.lineage),
            work_folder=work,
            conditions=conditions,
        )

    return _train(task, train)


def fetch_reference(task: Task) -> Written:
    """Fetch a model to compare with."""
    return _adopt(task, task.lineage.experiment.evaluation.references[task.key])


def train_expert(task: Task) -> Written:
    """Train the expert of one domain, going on from a checkpoint where there is one."""
    return _train_on(task, task.key, training=task.lineage.experiment.training)


def train_variant(task: Task) -> Written:
    """Train one expert of a sweep."""
    experiment = task.lineage.experiment
    variant, training = experiment.variants[task.key], experiment.variant_training(task.key)
    own = variant.domain if variant.text == "domain" else None
    return _train_on(task, variant.domain, training=training, only_domain=own)


def _train_on(
    task: Task, domain: str, *, training: ExpertTraining, only_domain: str | None = None
) -> Written:
    from mdel_assets.training.expert import train_expert

    lineage = task.lineage

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        return train_expert(
            training,
            seed_folder=lineage.folder("seed_model"),
            dataset_folder=lineage.folder("domain_dataset", domain),
            folder=folder,
            work_folder=work,
            only_domain=only_domain,
            conditions=conditions,
        )

    return _train(task, train)


def train_dense(task: Task) -> Written:
    """Train the seed on as many tokens as all experts together, of all their datasets."""
    return _train_baseline(task, num_experts=len(task.lineage.present_domains()))


def train_dense_one(task: Task) -> Written:
    """Train the seed on as many tokens as one expert, of all their datasets."""
    return _train_baseline(task)


def train_random_split(task: Task) -> Written:
    """Train one expert of the random split: one expert's tokens, of documents dealt at random."""
    return _train_baseline(task, part=int(task.key) - 1)


def _train_baseline(task: Task, *, num_experts: int = 1, part: int | None = None) -> Written:
    """Train one model on as many tokens as ``num_experts`` experts read; ``part`` of them."""
    from mdel_assets.training.baseline import Part, train_baseline

    lineage = task.lineage

    def train(folder: Path | None, work: Path, conditions: Conditions) -> Any:
        datasets = _datasets(lineage)
        return train_baseline(
            lineage.experiment.training,
            num_experts=num_experts,
            seed_folder=lineage.folder("seed_model"),
            dataset_folders=datasets,
            folder=folder,
            work_folder=work,
            part=None if part is None else Part(part, len(datasets)),
            conditions=conditions,
        )

    return _train(task, train)


def _datasets(lineage: Lineage) -> dict[str, Path]:
    return {d: lineage.folder("domain_dataset", d) for d in lineage.present_domains()}


def _train(task: Task, train: _Train) -> Written:
    """Train a model, tracked under its own name until it is published."""
    from mdel_assets.training.curves import tracked_run

    if task.stage is None:
        train(None, task.work_folder, task.conditions)
        return Written()
    name, artifact = run_name(task.artifact), task.artifact
    run = task.until_published.enter_context(
        tracked_run(
            task.conditions.tracker,
            name,
            tags=[artifact.key or artifact.kind],
            config=task.identity.config,
            work_folder=task.work_folder,
        )
    )
    result = train(task.stage, task.work_folder, dataclasses.replace(task.conditions, run=run))
    details = dataclasses.asdict(result)
    making = taken_out(details)
    if run is None:
        return Written(details=details, making=making | {"tracked_at": None})
    with going_on_without("keep the outcome"):
        run.summary.update(_summary(details))
    return Written(
        details=details,
        making=making | {"tracked_at": None if run.offline else run.url},
        after=lambda record: log_model(
            run,
            name,
            folder=task.artifact.folder,
            fingerprint=record.fingerprint,
            inputs=record.inputs,
        ),
    )


def run_name(artifact: Artifact) -> str:
    """Return how W&B calls a model's training, and the model: it takes no @ in the latter."""
    name = f"{artifact.kind.replace('_model', '')}-{artifact.key}".strip("-")
    return name.replace("_", "-").replace("@", "-")


def taken_out(details: dict[str, Any]) -> dict[str, Any]:
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


def _summary(details: dict[str, Any]) -> dict[str, float]:
    """Return a training's outcome as W&B's summary has it."""
    return {
        f"{when}/{split}": value
        for when in ("losses_before", "losses_after")
        for split, value in details.get(when, {}).items()
    }


def _adopt(task: Task, source: ModelSource) -> Written:
    from mdel_assets.training.seed import adopt_model

    if task.stage is None:
        return Written()
    place = task.lineage.experiment.place_of_model(source.path)
    commit = task.identity.config.get("commit")
    path = local_model(place, revision=source.revision, commit=commit)
    adopted = source.model_copy(update={"path": path})
    result = adopt_model(adopted, task.folder, cache=task.lineage.cache)
    return Written(details=dataclasses.asdict(result))
