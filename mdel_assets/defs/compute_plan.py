"""The artifacts of one run, made side by side, in turn, in local workers, or by cluster jobs."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from mdel_assets.defs.compute_settings import ComputeSettings, Place
from mdel_assets.defs.job_messages import JobMessages
from mdel_assets.engines.division import Share, shares_of
from mdel_assets.engines.job_folder import (
    JobFolder,
    folders_at_work,
    look_again,
    refuse_foreign_note,
)
from mdel_assets.engines.queued import Queue, QueuedJob
from mdel_assets.engines.worker_spec import WorkerSpec, raise_outcome
from mdel_assets.errors import MdelError, TrainingInterruptedError, WorkerError
from mdel_assets.line.conditions import Conditions
from mdel_assets.line.kind import Kind
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.line.making import Made, current_record, make, make_one, with_all_parts
from mdel_assets.machine.child_processes import naming_this_process
from mdel_assets.store.records import Record
from mdel_assets.tracking import Tracker
from mdel_assets.training.time_left import num_parameters, operations_of

# Per trained parameter: weights, gradients and two moments in fp32, and some activations.
_TRAINING_BYTES = 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """The artifacts of one run, and everything needed to make them."""

    compute: ComputeSettings
    context: dg.AssetExecutionContext
    lineage: Lineage
    tracker: Tracker
    kind: str
    home: str

    @property
    def declared(self) -> Kind:
        """The declaration of the run's kind."""
        return self.lineage.registry[self.kind]

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
            refuse_foreign_note(self._folder(key), engine="local")
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
        refuse_foreign_note(self._folder(key), engine="local")
        if self.compute.engine == "local":
            return _make(*self._arguments(key))
        folder = self._folder(key)
        command = [*self.compute.command(sys.executable), str(folder.spec)]
        context = self.context.op_execution_context
        try:
            with making(self.lineage.artifact(self.kind, key)):
                self._spec(Share(key, (key,))).write(folder.spec)
                client = dg.PipesSubprocessClient(env=naming_this_process())
                client.run(context=context, command=command)
        except DagsterPipesExecutionError as error:
            raise_outcome(folder.spec)
            raise WorkerError(f"The launcher failed: {error}") from error
        return self.lineage.artifact(self.kind, key).require()

    def looked_up(self, keys: Sequence[str]) -> tuple[Made, list[str]]:
        """Return what is made already or cannot be told, and the keys that are to be made."""
        made, missing = Made(), []
        for key in keys:
            try:
                if current := current_record(self.lineage, self.kind, key):
                    made.records[key] = current
                else:
                    missing.append(key)
            except MdelError as error:
                made.failures[key] = error
        return made, missing

    def refuse_jobs_at_work(self, keys: Sequence[str]) -> None:
        """Refuse to make here what a job of a killed run may still be making.

        Raises:
            WorkerError: the note of such a job is there.

        """
        for folder in folders_at_work(self._workers, {(self.kind, key) for key in keys}):
            shared = [key for key in keys if (self.kind, key) in folder.artifacts()]
            # A run that still waits for the job holds their locks.
            with making(*(self.lineage.artifact(self.kind, key) for key in shared)):
                if self.looked_up(shared)[1]:
                    refuse_foreign_note(folder, engine="local")

    def by_jobs(self, keys: Sequence[str], place: Place) -> Made:
        """Make artifacts as cluster jobs, all at the same time."""
        assert place.queue
        made, missing = self.looked_up(keys)
        if not missing:
            return made
        shares = shares_of(self.declared, missing, place.division)
        experiment = self.lineage.experiment.name
        jobs = {
            share: QueuedJob(
                share.name,
                "/".join(part for part in (experiment, self.kind, share.name) if part),
                self._spec(share),
                self._folder(share.folder_name),
                self.declared.resumes,
            )
            for share in shares
        }
        listener = JobMessages(self.context, are_named=len(jobs) > 1)
        for key in missing:
            self.lineage.push_inputs(self.kind, key)
        engine = self.compute.make_engine(place.queue, is_training=self.declared.is_training)
        with making(*(self.lineage.artifact(self.kind, key) for key in missing)):
            Queue(engine, place.queue, listener=listener).run(list(jobs.values()))
            self._note_outcomes({share: job.error for share, job in jobs.items()}, missing, made)
        return made

    def _note_outcomes(
        self, errors: Mapping[Share, MdelError | None], keys: Sequence[str], made: Made
    ) -> None:
        """Note what jobs have made; what they did in parts is written now."""
        if self.lineage.remote:
            self.lineage.remote.look_again()
        for key in keys:
            look_again(self.lineage.artifact(self.kind, key).folder, within=self.lineage.root)
        if any(share.part for share in errors):
            look_again(self.lineage.work_folder(), within=self.lineage.root)
            whole = with_all_parts(self.lineage, self.kind, keys)
            written = make(self.lineage, self.kind, whole, takes_locks=False)
            made.records.update(written.records)
            made.failures.update(written.failures)
        for share, error in errors.items():
            for key in share.keys:
                if key in made.records or key in made.failures:
                    continue
                try:
                    if error and not self.lineage.current(self.kind, key):
                        raise error
                    made.records[key] = self.lineage.artifact(self.kind, key).require()
                except MdelError as failure:
                    made.failures[key] = failure

    @property
    def _workers(self) -> Path:
        return self.lineage.root / "work" / "workers"

    def _folder(self, name: str) -> JobFolder:
        return JobFolder(self._workers / f"{self.kind}-{name}".removesuffix("-"))

    def _spec(self, share: Share) -> WorkerSpec:
        experiment = self.lineage.experiment
        return WorkerSpec(
            experiment=experiment.model_dump(mode="json", by_alias=True, exclude_unset=True),
            home=self.home,
            store=self.lineage.remote.address if self.lineage.remote else None,
            kind=self.kind,
            keys=share.keys,
            part=share.part,
            num_processes=self.compute.num_processes if self.declared.is_training else 1,
            max_seconds=self.compute.max_seconds,
            is_sharded=self.compute.sharded,
            tracking_folder=str(self.tracker.folder),
            tracking_mode=self.tracker.mode,
        )


def untracked(lineage: Lineage) -> Tracker:
    """Return what no training logs to."""
    folder = lineage.root.parent / "wandb"
    return Tracker(project=None, entity=None, group="", folder=folder, mode="disabled")


def _make(lineage: Lineage, kind: str, key: str, conditions: Conditions) -> Record:
    return make_one(lineage, kind, key, conditions=conditions)
