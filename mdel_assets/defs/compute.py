"""Where artifacts are made: in the step's process, in local workers, or in cluster jobs.

Settings come from run configuration, else from the YAML file that ``MDEL_COMPUTE`` names, else from
``compute.yaml`` in ``MDEL_HOME``. Settings that become a command come only from the file; otherwise
anyone who can start a run could run any command. None of the settings enters a fingerprint.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import yaml
from pydantic import TypeAdapter, create_model

from mdel_assets.defs.compute_plan import Place, Plan, untracked
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.engines.division import Division
from mdel_assets.engines.jobs import Engine
from mdel_assets.engines.ray_jobs import RayJobs
from mdel_assets.engines.settings import (
    QueueSettings,
    RaySettings,
    SlurmSettings,
    read_settings,
    refuse_unknown_keys,
)
from mdel_assets.engines.slurm import Slurm
from mdel_assets.errors import (
    ExperimentError,
    MdelError,
    TrainingInterruptedError,
    UnknownKeyError,
    unknown_name_message,
)
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.kinds import KINDS
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import Made, make
from mdel_assets.store.records import Record

_ENGINES = ["local", "accelerate", "slurm", "ray"]
_QUEUES = ["slurm", "ray"]
_SHARES = tuple(Division.model_fields)
# Settings of a kind hold for its further replicates, too.
_SETTINGS_OF = {kind.name: kind.replicate_of or kind.name for kind in KINDS}
_OWN = [kind for kind in KINDS if not kind.replicate_of]
_TRAININGS = [kind.name for kind in _OWN if kind.is_training]
_MOVABLE = [kind.name for kind in _OWN if kind.is_heavy]
_DIVISIBLE = [kind.name for kind in _OWN if kind.parts]
# Settings that become a command, or that choose the machines that run it.
_LAUNCHER = "launcher"
_COMMANDS = ("python", "environment", "modules", "options", "address")


class Compute(dg.ConfigurableResource):
    """Where artifacts are made: in the step's process, in local workers, or in cluster jobs.

    ``engine`` is that of trainings. ``kinds`` maps other kinds of artifact, or trainings that need
    something else, to settings of their own: an ``engine`` (by default the one above), settings of
    that engine's, and for `token_scores` the number of ``parts`` that documents are dealt to and of
    ``models_per_job``.

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
    kinds: dict[str, Any] = {}

    def backfill_policy(self, kind: str) -> dg.BackfillPolicy | None:
        """Return one run for all partitions if they become jobs, else Dagster's default."""
        return dg.BackfillPolicy.single_run() if self.place_of(kind).queue else None

    def made(
        self,
        context: dg.AssetExecutionContext,
        lineage: Lineage,
        keys: Sequence[str],
        *,
        here: Callable[[Lineage, Sequence[str]], Made] | None = None,
    ) -> Made:
        """Make artifacts ``keys`` of the context's asset, which is no training.

        ``here`` makes them where they are no jobs. One that fails does not stop the others.
        """
        kind = context.asset_key.path[-1]
        self.checked()
        place = self.place_of(kind)
        if place.queue is None:
            return here(lineage, keys) if here else make(lineage, kind, keys)
        plan = Plan(self, context, lineage, untracked(lineage), kind, str(lineage.root.parent))
        return plan.by_jobs(keys, place)

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
        self.checked()
        lineage, tracker = workspace.lineage(experiment), tracking.tracker(experiment)
        kind = context.asset_key.path[-1]
        place = self.place_of(kind)
        plan = Plan(self, context, lineage, tracker, kind, workspace.root)
        if place.queue:
            made = plan.by_jobs(keys, place)
        else:
            made, missing = plan.looked_up(keys)
            if (num_processes := plan.num_at_once(len(missing))) > 1:
                plan.train_side_by_side(missing, num_processes, made)
            else:
                plan.train_in_turn(missing, made)
        for failure in made.failures.values():
            raise_where_cancelled(failure)
        return made

    def checked(self) -> None:
        """Refuse settings that are unknown, contradict each other, or cannot be set here.

        Raises:
            ExperimentError: what is wrong, and where it can be set.

        """
        if self.engine not in _ENGINES:
            raise ExperimentError(unknown_name_message("compute.engine", self.engine, _ENGINES))
        given = {name: getattr(self, name) for name in _QUEUES}
        given |= {f"kinds.{kind}": entry for kind, entry in self.kinds.items()}
        for name, settings in given.items():
            if not isinstance(settings, dict):
                raise ExperimentError(f"compute.{name} must be a mapping of settings.")
            if found := sorted(set(settings) & set(_COMMANDS)):
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
        for kind in ("expert_model", *self.kinds):
            self.place_of(kind)

    def place_of(self, kind: str) -> "Place":
        """Return where artifacts of a kind are made.

        Raises:
            ExperimentError: a setting of the kind is unknown or invalid.

        """
        kind = _SETTINGS_OF.get(kind, kind)
        entry = {**self.of_file.get("kinds", {}).get(kind, {}), **self.kinds.get(kind, {})}
        if kind in self.kinds and kind not in _MOVABLE:
            raise UnknownKeyError(unknown_name_message("compute.kinds: kind", kind, _MOVABLE))
        engine = entry.pop("engine", self.engine if kind in (*self.kinds, *_TRAININGS) else "local")
        known = _ENGINES if kind in _TRAININGS else ["local", *_QUEUES]
        if engine not in known:
            raise ExperimentError(
                f"{unknown_name_message(f'compute.kinds.{kind}.engine', engine, known)} Only "
                f"trainings run in workers of accelerate."
            )
        shares = {name: entry.pop(name) for name in _SHARES if name in entry}
        if shares and kind not in _DIVISIBLE:
            raise ExperimentError(
                f"compute.kinds.{kind}.{next(iter(shares))} is for {', '.join(_DIVISIBLE)} alone."
            )
        division = read_settings(Division, shares, origin=f"compute.kinds.{kind}")
        if engine not in _QUEUES:
            if entry:
                raise ExperimentError(
                    f"compute.kinds.{kind}.{next(iter(entry))} is for jobs of a cluster: set "
                    f"compute.engine, or compute.kinds.{kind}.engine, to slurm or ray."
                )
            return Place(engine, None, division)
        content = {**self.of_file.get(engine, {}), **getattr(self, engine), **entry}
        origin = f"compute.kinds.{kind}" if entry else f"compute.{engine}"
        model = SlurmSettings if engine == "slurm" else RaySettings
        return Place(engine, read_settings(model, content, origin=origin), division)

    def command(self, python: str, *, is_training: bool = True) -> list[str]:
        """Return the command that starts a worker, without its last argument, the spec's path."""
        launcher: Sequence[str] = self.of_file.get(_LAUNCHER, []) if is_training else []
        if not launcher and (self.num_processes == 1 or not is_training):
            launcher = [python]
        elif not launcher:
            number = f"--nproc-per-node={self.num_processes}"
            launcher = [python, "-m", "torch.distributed.run", "--standalone", number]
        return [*launcher, "-m", "mdel_assets.worker"]

    def make_engine(self, settings: QueueSettings, *, is_training: bool) -> Engine:
        """Return the engine for ``settings``; only trainings have several processes for a job."""
        command = self.command(settings.python, is_training=is_training)
        if isinstance(settings, RaySettings):
            return RayJobs(settings, command=command)
        assert isinstance(settings, SlurmSettings)
        return Slurm(settings, command=command)


def raise_where_cancelled(error: MdelError) -> None:
    """Raise Dagster's interruption error if ``error`` says that a person asked to stop."""
    if isinstance(error, TrainingInterruptedError) and error.is_cancelled:
        raise dg.DagsterExecutionInterruptedError(str(error)) from error


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
    of_file: dict[str, Any] = {name: value for name, value in content.items() if name == _LAUNCHER}
    fields = {name: value for name, value in content.items() if name != _LAUNCHER}
    for name in _QUEUES:
        if isinstance(settings := fields.get(name), dict):
            of_file[name], fields[name] = _commands_apart(settings)
    kinds = fields.get("kinds")
    if isinstance(kinds, dict) and all(isinstance(entry, dict) for entry in kinds.values()):
        parted = {kind: _commands_apart(entry) for kind, entry in kinds.items()}
        of_file["kinds"] = {kind: commands for kind, (commands, _) in parted.items()}
        fields["kinds"] = {kind: others for kind, (_, others) in parted.items()}
    return of_file, fields


def _commands_apart(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    commands = {key: settings[key] for key in settings if key in _COMMANDS}
    return commands, {key: settings[key] for key in settings if key not in _COMMANDS}
