"""Resources: where and how the graph runs. Nothing here enters a fingerprint."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from mdel_assets import steps, steps_training
from mdel_assets.artifacts import Record
from mdel_assets.errors import ExperimentError, WorkerError, unknown_name_message
from mdel_assets.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.lineage import Lineage
from mdel_assets.publishing.publisher import Publisher, make_publisher
from mdel_assets.tracking import Tracker, tracking_mode
from mdel_assets.training.conditions import Conditions
from mdel_assets.worker import WorkerSpec, raise_outcome

_ENGINES = ["local", "accelerate"]


class Compute(dg.ConfigurableResource):
    """How models are trained: in the step's process, or by workers that a launcher starts.

    After ``max_seconds`` a training saves a checkpoint and ends, to be gone on with: give a queue's
    time limit less a minute, and the limit costs nothing. With ``engine: accelerate``, ``launcher``
    starts ``num_processes`` workers that train together (torchrun on this machine where it is left
    out); ``sharded`` splits parameters over them (FSDP) rather than copying them to each (DDP).
    """

    engine: str = "local"
    max_seconds: float | None = None
    num_processes: int = 1
    sharded: bool = False
    launcher: list[str] = []

    def make(
        self,
        context: dg.AssetExecutionContext,
        experiment: Experiment,
        *,
        workspace: "Workspace",
        tracking: "Tracking",
    ) -> Record:
        """Make the model that the context's asset and partition name, and return its record."""
        self._refuse_what_cannot_be()
        lineage, tracker = workspace.lineage(experiment), tracking.tracker(experiment)
        kind = context.asset_key.path[-1]
        key = context.partition_key if context.has_partition_key else ""
        if self.engine == "local":
            conditions = Conditions(max_seconds=self.max_seconds, tracker=tracker)
            return steps_training.make_model(
                lineage, kind, key, cache=workspace.home.cache, conditions=conditions
            )
        if current := steps.current_record(lineage, kind, key):
            return current
        spec = lineage.store.work_folder("workers") / f"{kind}-{key}.json".replace("-.", ".")
        WorkerSpec(
            experiment=experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
            home=workspace.root,
            kind=kind,
            key=key,
            num_processes=self.num_processes,
            max_seconds=self.max_seconds,
            is_sharded=self.sharded,
            tracking_folder=str(tracker.folder),
            tracking_mode=tracker.mode,
        ).write(spec)
        command = [*self._launcher(), "-m", "mdel_assets.worker", str(spec)]
        try:
            dg.PipesSubprocessClient().run(context=context.op_execution_context, command=command)
        except DagsterPipesExecutionError as error:
            raise_outcome(spec)
            raise WorkerError(f"The launcher failed: {error}") from error
        return lineage.artifact(kind, key).require()

    def _launcher(self) -> list[str]:
        if self.launcher:
            return self.launcher
        if self.num_processes == 1:
            return [sys.executable]
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*run, f"--nproc-per-node={self.num_processes}"]

    def _refuse_what_cannot_be(self) -> None:
        if self.engine not in _ENGINES:
            raise ExperimentError(unknown_name_message("compute.engine", self.engine, _ENGINES))
        together = self.num_processes > 1 or self.sharded or self.launcher
        if self.engine == "local" and together:
            raise ExperimentError(
                "compute.num_processes, sharded and launcher are for workers: set compute.engine "
                "to accelerate."
            )


class Tracking(dg.ConfigurableResource):
    """Weights & Biases. ``mode`` is online, offline, disabled, or auto: online where a key is."""

    folder: str
    mode: str = "auto"

    def tracker(self, experiment: Experiment) -> Tracker:
        """Return what tracks the runs of ``experiment``."""
        mode: Any = tracking_mode() if self.mode == "auto" else self.mode
        return Tracker(
            project=experiment.tracking.wandb_project,
            entity=experiment.tracking.wandb_entity,
            group=experiment.name,
            folder=Path(self.folder),
            mode=mode,
        )


class HubResource(dg.ConfigurableResource):
    """Where publishing goes. The token is read from the environment when it is needed.

    ``endpoint`` goes before that of the experiment and ``HF_ENDPOINT``. With ``dry_run`` the assets
    say what they would send, and send nothing.
    """

    endpoint: str | None = None
    dry_run: bool = False

    def publisher(self, experiment: Experiment) -> Publisher:
        """Return where ``experiment`` publishes; raise `MissingTokenError` without a token."""
        return make_publisher(experiment, endpoint=self.endpoint, dry_run=self.dry_run)


class Workspace(dg.ConfigurableResource):
    """The folder that holds every artifact, as ``MDEL_HOME`` names it.

    ``experiment`` is the name of the experiment that the graph shows.
    """

    root: str
    experiment: str

    @property
    def home(self) -> MdelHome:
        """The folder, with what is known of its insides."""
        return MdelHome(Path(self.root))

    def lineage(self, experiment: Experiment) -> Lineage:
        """Return the artifacts of ``experiment`` in this folder."""
        return self.home.lineage(experiment)
