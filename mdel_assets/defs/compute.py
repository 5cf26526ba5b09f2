"""Where models are trained: in the step's process, in local workers, or in cluster jobs.

Settings come from run configuration, else from the YAML file that ``MDEL_COMPUTE`` names, else from
``compute.yaml`` in ``MDEL_HOME``. Settings that become a command come only from the file; otherwise
anyone who can start a run could run any command. None of the settings enters a fingerprint.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import yaml
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import TypeAdapter, create_model

from mdel_assets.defs.job_messages import JobMessages
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.engines.job_folder import JobFolder, look_again
from mdel_assets.engines.jobs import Engine
from mdel_assets.engines.queued import Queue, QueuedJob, refuse_foreign_note
from mdel_assets.engines.ray_jobs import RayJobs
from mdel_assets.engines.settings import (
    QueueSettings,
    RaySettings,
    SlurmSettings,
    read_settings,
    refuse_unknown_keys,
)
from mdel_assets.engines.slurm import Slurm
from mdel_assets.engines.worker_spec import WorkerSpec, raise_outcome
from mdel_assets.errors import (
    ExperimentError,
    MdelError,
    TrainingInterruptedError,
    WorkerError,
    unknown_name_message,
)
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.line.making import Made, current_record, make_one
from mdel_assets.machine.child_processes import naming_this_process
from mdel_assets.store.records import Record
from mdel_assets.tracking import Tracker
from mdel_assets.training.time_left import num_parameters, operations_of

_ENGINES = ["local", "accelerate", "slurm", "ray"]
_QUEUES = ["slurm", "ray"]
# Per trained parameter: weights, gradients and two moments in fp32, and some activations.
_TRAINING_BYTES = 20
# Settings that become a command, or that choose the machines that run it.
_LAUNCHER = "launcher"
_COMMANDS = ("python", "environment", "modules", "options", "address")


class Compute(dg.ConfigurableResource):
    """Where models are trained: in the step's process, in local workers, or in cluster jobs.

    Without a GPU, the models of one run train side by side, each with a share of the threads: as
    many at a time as cores and memory allow, or ``models_at_once``. After ``max_seconds`` a
    training saves a checkpoint and ends; the next run resumes it. With ``engine: accelerate``,
    ``launcher`` starts ``num_processes`` workers that train one model together (default: torchrun
    on this machine); ``sharded`` splits parameters over them (FSDP) instead of copying them to each
    (DDP). With ``slurm`` and ``ray`` each model is a cluster job, with the settings of that name.
    ``launcher`` and, of those settings, ``python``, ``environment``, ``modules``, ``options`` and
    ``address`` come only from the file (`load_compute`).
    """

    # Not a field, so run configuration cannot set it: {"launcher": [...], "slurm": {...}, ...}.
    of_file: ClassVar[Mapping[str, Any]] = {}

    engine: str = "local"
    models_at_once: int | None = None
    max_seconds: float | None = None
    num_processes: int = 1
    sharded: bool = False
    slurm: dict[str, Any] = {}
    ray: dict[str, Any] = {}

    @property
    def is_queue(self) -> bool:
        """Whether each model is a cluster job, with many at the same time."""
        return self.engine in _QUEUES

    @property
    def backfill_policy(self) -> dg.BackfillPolicy | None:
        """One run for all partitions if they become jobs, else Dagster's default: one run each."""
        return dg.BackfillPolicy.single_run() if self.is_queue else None

    def make(
        self,
        context: dg.AssetExecutionContext,
        experiment: Experiment,
        *,
        workspace: Workspace,
        tracking: Tracking,
    ) -> Record:
        """Make the model of the context's asset and partition; return its record."""
        key = context.partition_key if context.has_partition_key else ""
        made = self.make_all(context, experiment, [key], workspace=workspace, tracking=tracking)
        made.raise_failures()
        return made.records[key]

    def make_all(
        self,
        context: dg.AssetExecutionContext,
        experiment: Experiment,
        keys: Sequence[str],
        *,
        workspace: Workspace,
        tracking: Tracking,
    ) -> Made:
        """Make the models ``keys`` of the context's asset.

        A model that fails does not stop the others.
        """
        settings = self.checked()
        lineage, tracker = workspace.lineage(experiment), tracking.tracker(experiment)
        kind = context.asset_key.path[-1]
        made = Made()
        missing = []
        for key in keys:
            try:
                if current := current_record(lineage, kind, key):
                    made.records[key] = current
                else:
                    missing.append(key)
            except MdelError as error:
                made.failures[key] = error
        plan = _Plan(self, context, lineage, tracker, kind, workspace)
        if settings is not None and missing:
            plan.train_by_jobs(missing, settings, made)
        elif (num_processes := plan.num_at_once(len(missing))) > 1:
            plan.train_side_by_side(missing, num_processes, made)
        else:
            plan.train_in_turn(missing, made)
        for failure in made.failures.values():
            raise_where_cancelled(failure)
        return made

    def checked(self) -> QueueSettings | None:
        """Return the settings of a cluster engine; None for the other engines.

        Raises:
            ExperimentError: a setting is unknown, or contradicts the others.

        """
        if self.engine not in _ENGINES:
            raise ExperimentError(unknown_name_message("compute.engine", self.engine, _ENGINES))
        for name in _QUEUES:
            if found := sorted(set(getattr(self, name)) & set(_COMMANDS)):
                raise ExperimentError(
                    f"compute.{name}.{found[0]} cannot be set in run configuration: it becomes a "
                    f"command, and anyone who can start a run could run any command. Set it in "
                    f"compute.yaml."
                )
        together = self.num_processes > 1 or self.sharded or self.of_file.get(_LAUNCHER)
        if self.engine == "local" and together:
            raise ExperimentError(
                "compute.num_processes, sharded and launcher are for workers: set compute.engine "
                "to accelerate."
            )
        if self.engine == "slurm":
            given = {**self.of_file.get("slurm", {}), **self.slurm}
            return read_settings(SlurmSettings, given, origin="compute.slurm")
        if self.engine == "ray":
            given = {**self.of_file.get("ray", {}), **self.ray}
            return read_settings(RaySettings, given, origin="compute.ray")
        return None

    def command(self, python: str) -> list[str]:
        """Return the command that starts a worker, without its last argument, the spec's path."""
        launcher: Sequence[str] = self.of_file.get(_LAUNCHER, [])
        if not launcher and self.num_processes == 1:
            launcher = [python]
        elif not launcher:
            number = f"--nproc-per-node={self.num_processes}"
            launcher = [python, "-m", "torch.distributed.run", "--standalone", number]
        return [*launcher, "-m", "mdel_assets.worker"]

    def make_engine(self, settings: QueueSettings) -> Engine:
        """Return the engine for ``settings``."""
        command = self.command(settings.python)
        if isinstance(settings, RaySettings):
            return RayJobs(settings, command=command)
        assert isinstance(settings, SlurmSettings)
        return Slurm(settings, command=command)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The models of one run, and everything needed to make them."""

    compute: Compute
    context: dg.AssetExecutionContext
    lineage: Lineage
    tracker: Tracker
    kind: str
    workspace: Workspace

    def num_at_once(self, num_models: int) -> int:
        """Return how many models train at a time, each in its own process."""
        from mdel_assets.machine.side_by_side import num_at_once

        if self.compute.engine != "local" or num_models < 2:
            return 1
        if self.compute.models_at_once:
            return min(num_models, self.compute.models_at_once)
        return num_at_once(
            num_models,
            model_bytes=_TRAINING_BYTES * num_parameters(self.lineage),
            num_operations=operations_of(self.lineage, self.kind),
        )

    def train_side_by_side(self, keys: Sequence[str], num_processes: int, made: Made) -> None:
        """Train ``num_processes`` models at a time, each in its own process."""
        from mdel_assets.machine.side_by_side import Work, run_side_by_side

        names = {f"{self.kind} '{key}'": key for key in keys}
        work = [Work(name, _make, self._arguments(key)) for name, key in names.items()]
        for key in keys:
            refuse_foreign_note(self._folder(key), engine=self.compute.engine)
        for done, outcome in run_side_by_side(work, num_processes=num_processes):
            key = names[done.name]
            if outcome.error:
                made.failures[key] = outcome.error
            else:
                made.records[key] = self.lineage.artifact(self.kind, key).require()

    def train_in_turn(self, keys: Sequence[str], made: Made) -> None:
        """Train one model after another; stop after one that was told to end."""
        for key in keys:
            try:
                made.records[key] = self._train_here(key)
            except MdelError as error:
                made.failures[key] = error
                if isinstance(error, TrainingInterruptedError):
                    return

    def _arguments(self, key: str) -> tuple[Any, ...]:
        conditions = Conditions(max_seconds=self.compute.max_seconds, tracker=self.tracker)
        return self.lineage, self.kind, key, conditions

    def _train_here(self, key: str) -> Record:
        """Train one model in this process, or in workers on this machine."""
        refuse_foreign_note(self._folder(key), engine=self.compute.engine)
        if self.compute.engine == "local":
            return _make(*self._arguments(key))
        folder = self._folder(key)
        command = [*self.compute.command(sys.executable), str(folder.spec)]
        context = self.context.op_execution_context
        try:
            with making(self.lineage.artifact(self.kind, key)):
                self._spec(key).write(folder.spec)
                client = dg.PipesSubprocessClient(env=naming_this_process())
                client.run(context=context, command=command)
        except DagsterPipesExecutionError as error:
            raise_outcome(folder.spec)
            raise WorkerError(f"The launcher failed: {error}") from error
        return self.lineage.artifact(self.kind, key).require()

    def train_by_jobs(self, keys: Sequence[str], settings: QueueSettings, made: Made) -> None:
        """Train each model as a cluster job, all at the same time."""
        experiment = self.lineage.experiment.name
        jobs = [
            QueuedJob(
                key,
                "/".join(part for part in (experiment, self.kind, key) if part),
                self._spec(key),
                self._folder(key),
            )
            for key in keys
        ]
        listener = JobMessages(self.context, are_named=len(jobs) > 1)
        with making(*(self.lineage.artifact(self.kind, key) for key in keys)):
            Queue(self.compute.make_engine(settings), settings, listener=listener).run(jobs)
        for job in jobs:
            artifact = self.lineage.artifact(self.kind, job.key)
            look_again(artifact.folder, within=self.lineage.root)
            try:
                if job.error:
                    raise job.error
                made.records[job.key] = artifact.require()
            except MdelError as error:
                made.failures[job.key] = error

    def _folder(self, key: str) -> JobFolder:
        name = f"{self.kind}-{key}".removesuffix("-")
        return JobFolder(self.lineage.root / "work" / "workers" / name)

    def _spec(self, key: str) -> WorkerSpec:
        experiment = self.lineage.experiment
        return WorkerSpec(
            experiment=experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
            home=self.workspace.root,
            kind=self.kind,
            key=key,
            num_processes=self.compute.num_processes,
            max_seconds=self.compute.max_seconds,
            is_sharded=self.compute.sharded,
            tracking_folder=str(self.tracker.folder),
            tracking_mode=self.tracker.mode,
        )


def raise_where_cancelled(error: MdelError) -> None:
    """Raise Dagster's interruption error if ``error`` says that a person asked to stop."""
    if isinstance(error, TrainingInterruptedError) and error.is_cancelled:
        raise dg.DagsterExecutionInterruptedError(str(error)) from error


def _make(lineage: Lineage, kind: str, key: str, conditions: Conditions) -> Record:
    return make_one(lineage, kind, key, conditions=conditions)


def load_compute(home: MdelHome, environment: Mapping[str, str] = os.environ) -> Compute:
    """Return `Compute` with the settings of ``MDEL_COMPUTE`` or the home's ``compute.yaml``.

    Raises:
        ExperimentError: the file that ``MDEL_COMPUTE`` names does not exist, is not YAML, or holds
            invalid values.
        UnknownKeyError: a key is unknown; the nearest known one is named.

    """
    named = environment.get("MDEL_COMPUTE")
    path = Path(named) if named else home.root / "compute.yaml"
    if not named and not path.exists():
        return Compute()
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
    except FileNotFoundError:
        raise ExperimentError(f"MDEL_COMPUTE names {path}, which does not exist.") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ExperimentError(f"{path} must be a mapping of keys, such as 'engine: slurm'.")
    known = [name for name in Compute.__annotations__ if name != "of_file"]
    refuse_unknown_keys(content, [*known, _LAUNCHER], origin=str(path))
    of_file, fields = _apart(content)
    try:
        TypeAdapter(list[str]).validate_python(of_file.get(_LAUNCHER, []))
        Compute(**fields)
        # Run configuration replaces all values of an instance at once. It changes single values
        # only if the file's settings are the class's own defaults.
        defaults: Any = {name: (Compute.__annotations__[name], fields[name]) for name in fields}
        made = create_model("Compute", __base__=Compute, **defaults)
        made.of_file = of_file
        compute: Compute = made()
    except ValueError as error:
        raise ExperimentError(f"{path}: {error}") from error
    compute.checked()
    return compute


def _apart(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that run configuration cannot change, and those that it can."""
    of_file = {name: value for name, value in content.items() if name == _LAUNCHER}
    fields = {name: value for name, value in content.items() if name != _LAUNCHER}
    for name in _QUEUES:
        if isinstance(settings := fields.get(name), dict):
            of_file[name] = {key: settings[key] for key in settings if key in _COMMANDS}
            fields[name] = {key: settings[key] for key in settings if key not in _COMMANDS}
    return of_file, fields
