"""Settings of the engines, and messages about mistakes in them."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator

from mdel_assets.errors import UnknownKeyError, unknown_name_message
from mdel_assets.experiment.mistakes import validated
from mdel_assets.experiment.section import PositiveInt, Section

Seconds = Annotated[float, Field(gt=0)]
NaturalNumber = Annotated[int, Field(ge=0)]


class QueueSettings(Section):
    """Settings that SLURM and Ray share.

    ``python`` is the interpreter on the cluster's machines; ``environment`` are lines that bash
    runs before the worker starts. A job that saved a checkpoint and ended early is requeued at most
    ``max_requeues`` times; a killed job is retried at most ``max_retries`` times.
    With ``shares_folder: false`` jobs see nothing of MDEL_HOME: they bring their specification with
    them, and artifacts and how they ended go through the object store. Then a job that was stopped
    begins anew unless it finds its own MDEL_JOB_HOME again.
    ``storage_seconds`` is how long a file written on one side may take to appear on the other,
    ``cancel_seconds`` how long a cancelled job may take to save a checkpoint.
    """

    python: str = sys.executable
    environment: tuple[str, ...] = ()
    max_requeues: NaturalNumber = 100
    max_retries: NaturalNumber = 2
    shares_folder: bool = True
    poll_seconds: Seconds = 5.0
    storage_seconds: Seconds = 60.0
    cancel_seconds: Seconds = 60.0


class SlurmSettings(QueueSettings):
    """The settings for ``sbatch``.

    A training saves a checkpoint and ends ``margin_seconds`` before the time limit. ``modules`` are
    loaded before the lines of ``environment`` run. ``cpus`` are the cores of each process, and
    ``options`` additional options of sbatch.
    ``max_at_once`` limits how many jobs of an array run at the same time.
    """

    account: str | None = None
    partition: str | None = None
    gpus: int | str | None = None
    cpus: PositiveInt | None = None
    time_limit_minutes: PositiveInt | None = None
    margin_seconds: Seconds = 120.0
    modules: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    max_at_once: PositiveInt | None = None

    @model_validator(mode="after")
    def _leaves_time_to_train(self) -> "SlurmSettings":
        limit = self.time_limit_minutes
        if limit is not None and limit * 60 <= self.margin_seconds:
            raise ValueError(
                f"a time limit of {limit} minutes is over before its margin of "
                f"{self.margin_seconds:g} seconds begins; lower margin_seconds"
            )
        return self

    @property
    def training_seconds(self) -> float | None:
        """The time after its start at which a job saves a checkpoint and ends."""
        limit = self.time_limit_minutes
        return None if limit is None else limit * 60 - self.margin_seconds


class RaySettings(QueueSettings):
    """The settings for Ray: the address of its dashboard, and the resources of each job.

    Without ``address``, Ray's default applies: ``RAY_ADDRESS``, else a cluster on this machine.
    """

    address: str | None = None
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    resources: dict[str, float] = {}


_Settings = TypeVar("_Settings", bound=Section)


def read_settings(model: type[_Settings], content: Mapping[str, Any], *, origin: str) -> _Settings:
    """Return ``content`` as settings; ``origin`` names its place in messages.

    Raises:
        UnknownKeyError: a key is unknown to ``model``; the nearest known one is named.
        ExperimentError: a value is invalid.

    """
    refuse_unknown_keys(content, list(model.model_fields), origin=origin)
    return validated(model, content, origin=origin)


def refuse_unknown_keys(content: Mapping[str, Any], known: list[str], *, origin: str) -> None:
    """Raise `UnknownKeyError`, naming the nearest of ``known``, if ``content`` has another key."""
    for key in content:
        if key not in known:
            raise UnknownKeyError(f"{origin}: {unknown_name_message('key', key, known)}")
