"""Where artifacts are made: in the step's process, in local workers, or in cluster jobs.

Settings come from run configuration, else from the YAML file that ``MDEL_COMPUTE`` names, else from
``compute.yaml`` in ``MDEL_HOME``. Settings that become a command come only from the file; otherwise
anyone who can start a run could run any command. None of the settings enters a fingerprint.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from pydantic import TypeAdapter, create_model

from mdel_assets.defs.compute_plan import Plan, untracked
from mdel_assets.defs.compute_settings import COMMANDS, LAUNCHER, QUEUES, ComputeSettings
from mdel_assets.defs.resources import Tracking, Workspace
from mdel_assets.engines.settings import refuse_unknown_keys
from mdel_assets.errors import ExperimentError, MdelError, TrainingInterruptedError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.making import Made, make
from mdel_assets.store.records import Record


class Compute(ComputeSettings):
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
        plan = Plan(self, context, lineage, untracked(lineage), kind, str(lineage.root.parent))
        if place.queue:
            return plan.by_jobs(keys, place)
        plan.refuse_jobs_at_work(keys)
        return here(lineage, keys) if here else make(lineage, kind, keys)

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


def raise_where_cancelled(error: MdelError) -> None:
    """Raise Dagster's interruption error if ``error`` says that a person asked to stop."""
    if isinstance(error, TrainingInterruptedError) and error.is_cancelled:
        raise dg.DagsterExecutionInterruptedError(str(error)) from error


def load_compute(home: MdelHome, environment: Mapping[str, str] = os.environ) -> Compute:
    """Return `Compute` with the settings of ``MDEL_COMPUTE`` or the home's ``compute.yaml``.

    Raises:
        ExperimentError: the file that ``MDEL_COMPUTE`` names does not exist, cannot be read, is not
            YAML, or holds invalid values.
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
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"{path} cannot be read: {error}. Give a YAML file in UTF-8 that you may read."
        ) from error
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ExperimentError(f"{path} must be a mapping of keys, such as 'engine: slurm'.")
    known = [name for name in ComputeSettings.__annotations__ if name != "of_file"]
    refuse_unknown_keys(content, [*known, LAUNCHER], origin=str(path))
    of_file, fields = _apart(content)
    try:
        TypeAdapter(list[str]).validate_python(of_file.get(LAUNCHER, []))
        Compute(**fields)
        # Run configuration replaces all values of an instance at once. It changes single values
        # only if the file's settings are the class's own defaults.
        defaults: Any = {
            name: (ComputeSettings.__annotations__[name], fields[name]) for name in fields
        }
        made = create_model("Compute", __base__=Compute, **defaults)
        made.of_file = of_file
        compute: Compute = made()
    except ValueError as error:
        raise ExperimentError(f"{path}: {error}") from error
    compute.checked()
    return compute


def _apart(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that run configuration cannot change, and those that it can."""
    of_file: dict[str, Any] = {name: value for name, value in content.items() if name == LAUNCHER}
    fields = {name: value for name, value in content.items() if name != LAUNCHER}
    for name in QUEUES:
        if isinstance(settings := fields.get(name), dict):
            of_file[name], fields[name] = _commands_apart(settings)
    kinds = fields.get("kinds")
    if isinstance(kinds, dict) and all(isinstance(entry, dict) for entry in kinds.values()):
        parted = {kind: _commands_apart(entry) for kind, entry in kinds.items()}
        of_file["kinds"] = {kind: commands for kind, (commands, _) in parted.items()}
        fields["kinds"] = {kind: others for kind, (_, others) in parted.items()}
    return of_file, fields


def _commands_apart(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    commands = {key: settings[key] for key in settings if key in COMMANDS}
    return commands, {key: settings[key] for key in settings if key not in COMMANDS}
