"""The settings of where artifacts are made, and the places, commands and engines that they name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import dagster as dg

from mdel_assets.engines.division import Division
from mdel_assets.engines.jobs import Engine
from mdel_assets.engines.ray_jobs import RayJobs
from mdel_assets.engines.settings import QueueSettings, RaySettings, SlurmSettings, read_settings
from mdel_assets.engines.slurm import Slurm
from mdel_assets.errors import ExperimentError, UnknownKeyError, unknown_name_message
from mdel_assets.kinds import KINDS

_ENGINES = ["local", "accelerate", "slurm", "ray"]
QUEUES = ["slurm", "ray"]
_SHARES = tuple(Division.model_fields)
# Settings of a kind hold for its further replicates, too.
_SETTINGS_OF = {kind.name: kind.replicate_of or kind.name for kind in KINDS}
_OWN = [kind for kind in KINDS if not kind.replicate_of]
_TRAININGS = [kind.name for kind in _OWN if kind.is_training]
_MOVABLE = [kind.name for kind in _OWN if kind.is_heavy]
_DIVISIBLE = [kind.name for kind in _OWN if kind.parts]
# Settings that become a command, or that choose the machines that run it.
LAUNCHER = "launcher"
COMMANDS = ("python", "environment", "modules", "options", "address")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where artifacts of a kind are made; ``queue`` are the settings where they become jobs."""

    engine: str
    queue: QueueSettings | None
    division: Division


class ComputeSettings(dg.ConfigurableResource):
    """Where artifacts are made; `mdel_assets.defs.compute.Compute` says what each setting does."""

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

    def checked(self) -> None:
        """Refuse settings that are unknown, contradict each other, or cannot be set here.

        Raises:
            ExperimentError: what is wrong, and where it can be set.

        """
        if self.engine not in _ENGINES:
            raise ExperimentError(unknown_name_message("compute.engine", self.engine, _ENGINES))
        given = {name: getattr(self, name) for name in QUEUES}
        given |= {f"kinds.{kind}": entry for kind, entry in self.kinds.items()}
        for name, settings in given.items():
            if not isinstance(settings, dict):
                raise ExperimentError(f"compute.{name} must be a mapping of settings.")
            if found := sorted(set(settings) & set(COMMANDS)):
                raise ExperimentError(
                    f"compute.{name}.{found[0]} cannot be set in run configuration: it becomes a "
                    f"command, and anyone who can start a run could run any command. Set it in "
                    f"compute.yaml."
                )
        together = self.num_processes > 1 or self.sharded or self.of_file.get(LAUNCHER)
        if self.engine == "local" and together:
            raise ExperimentError(
                "compute.num_processes, sharded and launcher are for workers: set compute.engine "
                "to accelerate."
            )
        for kind in ("expert_model", *self.kinds):
            self.place_of(kind)

    def place_of(self, kind: str) -> Place:
        """Return where artifacts of a kind are made.

        Raises:
            ExperimentError: a setting of the kind is unknown or invalid.

        """
        kind = _SETTINGS_OF.get(kind, kind)
        entry = {**self.of_file.get("kinds", {}).get(kind, {}), **self.kinds.get(kind, {})}
        if kind in self.kinds and kind not in _MOVABLE:
            raise UnknownKeyError(unknown_name_message("compute.kinds: kind", kind, _MOVABLE))
        engine = entry.pop("engine", self.engine if kind in (*self.kinds, *_TRAININGS) else "local")
        known = _ENGINES if kind in _TRAININGS else ["local", *QUEUES]
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
        if engine not in QUEUES:
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
        launcher: Sequence[str] = self.of_file.get(LAUNCHER, []) if is_training else []
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
