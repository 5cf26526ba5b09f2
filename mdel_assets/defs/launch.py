"""Run the whole pipeline: everything that is stale, in order, each as a Dagster run.

Every run is recorded in the instance, as if the Dagster command line had started it. A failed
partition does not stop the others; steps that depend on it are named as skipped. Runs take place in
this process, one after another; if there are several shards, their runs use worker processes.
"""

import dataclasses
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events import RunFailureReason

from mdel_assets.data.kinds import shard_keys
from mdel_assets.defs.graph import build_definitions
from mdel_assets.defs.interrupts import answer_interrupts, noting_signals
from mdel_assets.defs.partitions import range_tags
from mdel_assets.defs.pools import keep_limits_of_pools
from mdel_assets.errors import ArtifactError
from mdel_assets.experiment.experiment import Experiment
from mdel_assets.home import MdelHome
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.not_made import NotMade, in_words, reasons_not_made
from mdel_assets.machine.child_processes import (
    end_with_parent,
    ending_children,
    workers_deaf_to_interrupts,
)
from mdel_assets.machine.memory import give_memory_back, spare_libraries
from mdel_assets.machine.side_by_side import prepare
from mdel_assets.store.durable_files import RUN_BYTES, explaining_full_disk, require_room
from mdel_assets.store.in_use import using
from mdel_assets.store.looking_once import looking_once
from mdel_assets.training.time_left import TimeLeft

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# Tokens of an expert from which on the libraries are loaded while the corpus is read.
_LONG_TRAINING = 100_000


@dataclasses.dataclass(frozen=True)
class RunOutcome:
    """The outcome of one run: ``made``, ``up to date``, ``failed``, ``skipped`` or ``absent``.

    ``absent`` are datasets of domains that the corpus lacks.

    ``key`` is the partition, or the number of partitions that the outcome covers. ``keys`` are the
    run's partitions, or those that are up to date; ``not_made`` are those of them that the run did
    not make. ``ends_line`` is true if the run was told to end (SIGTERM, SIGINT), so no further run
    should follow.
    """

    kind: str
    key: str
    state: str
    elapsed_seconds: float = 0.0
    message: str = ""
    ends_line: bool = False
    keys: tuple[str, ...] = ()
    not_made: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A kind with something to make: the ``number``-th of ``num_stages``.

    ``seconds_left`` is about what the trainings of this and later stages will take, where known.
    """

    kind: str
    number: int
    num_stages: int
    num_to_make: int
    seconds_left: float | None


def run_line(
    experiment: Experiment,
    home: MdelHome,
    *,
    instance: dg.DagsterInstance,
    on_start: Callable[[str, str], None] | None = None,
    on_stage: Callable[[Stage], None] | None = None,
    num_workers: int = 1,
    until: str | None = None,
) -> Iterator[RunOutcome]:
    """Materialize everything that is stale, from shards to matrix, and yield each outcome.

    ``until`` is the last kind to make; the default is the last of all. ``on_stage`` is called for
    each kind with something to make, ``on_start`` (kind, key) before each run. Up to
    ``num_workers`` shards are fetched or routed at the same time.
    """
    lineage = home.lineage(experiment)
    runner = Runner(build_definitions(experiment, home), instance, lineage)
    absent = lineage.absent_domains()
    kinds = lineage.kinds()
    if until is not None:
        kinds = kinds[: kinds.index(until) + 1]
    time_left = TimeLeft(lineage)
    not_made = NotMade(lineage)
    if _will_train_side_by_side(lineage):
        prepare()
    for number, kind in enumerate(kinds):
        try:
            keys = lineage.keys(kind)
        except ArtifactError:
            message = f"waits for {not_made.in_words()}"
            yield RunOutcome("everything after that", "", "skipped", message=message)
            return
        if absent != (absent := lineage.absent_domains()):
            runner = Runner(build_definitions(experiment, home), instance, lineage)
        with looking_once():
            stale = [key for key in keys if lineage.to_do(kind, key)]
            awaited = {key: found for key in stale if (found := not_made.awaited_by(kind, key))}
        if current := tuple(key for key in keys if key not in stale):
            yield RunOutcome(kind, f"{len(current)} of {len(keys)}", "up to date", keys=current)
        yield from _skipped(kind, awaited)
        not_made.add(kind, awaited)
        wanted = [key for key in stale if key not in awaited]
        if not wanted:
            continue
        if kind == "domain_dataset" and absent:
            yield _absent(experiment, absent)
        if on_stage:
            on_stage(Stage(kind, number + 1, len(kinds), len(wanted), time_left.of(kinds[number:])))
        started = time.monotonic()
        num_made = 0
        ranges = _ranges(keys, wanted, awaited)
        for outcome in _make(runner, experiment, home, kind, ranges, on_start, num_workers):
            yield outcome
            not_made.add(kind, outcome.not_made)
            if outcome.ends_line:
                return
            num_made += len(outcome.keys) if outcome.state == "made" else 0
        if num_made:
            time_left.count(kind, num_made, time.monotonic() - started)


def _absent(experiment: Experiment, domains: Sequence[str]) -> RunOutcome:
    num_absent = f"{len(domains)} of {len(experiment.domain_keys)}"
    message = f"the corpus has no training document of {', '.join(domains)}"
    return RunOutcome("domain_dataset", num_absent, "absent", message=message)


def _skipped(kind: str, awaited: Mapping[str, tuple[str, ...]]) -> Iterator[RunOutcome]:
    """Yield one outcome for all keys that wait for the same artifacts."""
    waiting: dict[tuple[str, ...], list[str]] = {}
    for key, labels in awaited.items():
        waiting.setdefault(labels, []).append(key)
    for labels, keys in waiting.items():
        message = f"waits for {in_words(labels)}"
        yield RunOutcome(kind, in_words(keys), "skipped", message=message, not_made=tuple(keys))


def _ranges(
    keys: Sequence[str], wanted: Sequence[str], awaited: Collection[str]
) -> list[list[str]]:
    """Return ranges of ``keys`` that begin and end with a wanted key and contain no waiting one."""
    found: list[list[str]] = [[]]
    for key in keys:
        if key in awaited:
            found.append([])
        elif key in wanted or found[-1]:
            found[-1].append(key)
    for group in found:
        while group and group[-1] not in wanted:
            group.pop()
    return [group for group in found if group]


def _will_train_side_by_side(lineage: Lineage) -> bool:
    """Whether nothing is trained yet, and the coming trainings are worth parallel processes."""
    training = lineage.experiment.training
    is_long = training.num_epochs is not None or training.num_tokens_read >= _LONG_TRAINING
    is_first = lineage.artifact("seed_model").read_record() is None
    return is_first and is_long and shutil.which("nvidia-smi") is None


def _make(
    runner: "Runner",
    experiment: Experiment,
    home: MdelHome,
    kind: str,
    ranges: Sequence[Sequence[str]],
    on_start: Callable[[str, str], None] | None,
    num_workers: int,
) -> Iterator[RunOutcome]:
    """Make what is to do in ``ranges`` of a kind's keys: together, in workers, or one by one."""
    keys = [key for group in ranges for key in group]
    if len(keys) > 1 and runner.makes_together(kind):
        for group in ranges:
            if on_start:
                on_start(kind, f"all {len(group)}")
            yield runner.run_range(kind, group)
        return
    to_do = [key for key in keys if runner.lineage.to_do(kind, key)]
    is_of_shards = runner.lineage.registry[kind].keys is shard_keys
    if is_of_shards and min(len(to_do), num_workers) > 1:
        yield from _run_in_workers(experiment, home, kind, to_do, num_workers=num_workers)
        return
    for key in to_do:
        if on_start:
            on_start(kind, key)
        yield runner.run(kind, key)


def _run_in_workers(
    experiment: Experiment, home: MdelHome, kind: str, keys: Sequence[str], *, num_workers: int
) -> Iterator[RunOutcome]:
    """Run partitions in worker processes, and yield each outcome as its run ends."""
    with (
        ProcessPoolExecutor(
            min(num_workers, len(keys)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(experiment, home),
        ) as pool,
        ending_children(),
    ):
        with workers_deaf_to_interrupts():
            key_of = {pool.submit(_run_in_worker, kind, key): key for key in keys}
        while key_of:
            for future in wait(key_of, return_when=FIRST_COMPLETED).done:
                key = key_of.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    message = (
                        "a worker process was killed, perhaps because memory ran out: run the same "
                        "command again with fewer --workers"
                    )
                    lost = (key,)
                    yield RunOutcome(kind, key, "failed", message=message, keys=lost, not_made=lost)


def _start_worker(experiment: Experiment, home: MdelHome) -> None:
    import warnings

    from mdel_assets.machine.console import show_log_lines

    global _worker
    end_with_parent()
    warnings.simplefilter("ignore")
    show_log_lines()
    instance = dg.DagsterInstance.from_config(str(home.dagster_home(experiment.name)))
    lineage = home.lineage(experiment)
    _worker = Runner(build_definitions(experiment, home), instance, lineage)


def _run_in_worker(kind: str, key: str) -> RunOutcome:
    assert _worker is not None
    try:
        return _worker.run(kind, key)
    finally:
        # Dagster handles SIGTERM during a run; between runs SIGTERM would end the process silently.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Runner:
    """Runs one asset partition after another in this process."""

    def __init__(
        self, definitions: dg.Definitions, instance: dg.DagsterInstance, lineage: Lineage
    ) -> None:
        keep_limits_of_pools()
        answer_interrupts()
        self.lineage = lineage
        self.graph = definitions.resolve_asset_graph()
        self.job = definitions.resolve_implicit_global_asset_job_def()
        self.instance = instance

    def makes_together(self, kind: str) -> bool:
        """Whether one run makes all partitions: they share work, or become cluster jobs."""
        if self.lineage.registry[kind].links_to:
            # As many train at a time as the machine allows.
            return True
        policy = self.graph.get(dg.AssetKey(kind)).backfill_policy
        return policy is not None and policy.max_partitions_per_run is None

    def run(self, kind: str, key: str) -> RunOutcome:
        """Run one partition, or the whole asset if ``key`` is empty."""
        return self._execute(kind, key, [key], partition_key=key or None)

    def run_range(self, kind: str, keys: Sequence[str]) -> RunOutcome:
        """Run the adjacent partitions ``keys`` together."""
        return self._execute(kind, f"all {len(keys)}", keys, tags=range_tags(keys))

    def _execute(self, kind: str, shown: str, keys: Sequence[str], **options: Any) -> RunOutcome:
        started = time.monotonic()
        spare_libraries()
        history, place = "Dagster's history of the run", Path(self.instance.root_directory)
        require_room(history, place, wanted_bytes=RUN_BYTES)
        with explaining_full_disk(history, place), noting_signals() as has_come, using():
            result = self.job.execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(kind)],
                raise_on_error=False,
                run_config=_QUIET,
                **options,
            )
            is_told_to_end = has_come()
        elapsed = time.monotonic() - started
        give_memory_back()
        name, message = ("", "") if result.success else _first_failure(result)
        # A training that was told to end says itself how to continue.
        ends_line = name == "TrainingInterruptedError"
        if not ends_line and (is_told_to_end or _was_interrupted(result, name)):
            raise KeyboardInterrupt
        if result.success:
            return self._succeeded(kind, shown, keys, elapsed)
        # Only the event log says what a failed step has made.
        kinds = dg.DagsterEventType.ASSET_MATERIALIZATION
        entries = self.instance.all_logs(result.run_id, of_type=kinds)
        made = {entry.dagster_event.partition for entry in entries if entry.dagster_event}
        # A partition is recorded before its failing check.
        left_out = reasons_not_made(self.lineage, kind, keys)
        not_made = tuple(key for key in keys if key not in made or key in left_out)
        if len(not_made) < len(keys):
            shown = ", ".join(not_made)
        return RunOutcome(kind, shown, "failed", elapsed, message, ends_line, tuple(keys), not_made)

    def _succeeded(self, kind: str, shown: str, keys: Sequence[str], elapsed: float) -> RunOutcome:
        """Return the outcome of a run without an error; a step may have left partitions out."""
        left_out = reasons_not_made(self.lineage, kind, keys)
        if not left_out:
            return RunOutcome(kind, shown, "made", elapsed, keys=tuple(keys))
        told = (f"{key}: {reason}".removeprefix(": ") for key, reason in left_out.items())
        message = "\n".join(told)
        shown = in_words(list(left_out))
        return RunOutcome(
            kind, shown, "failed", elapsed, message, keys=tuple(keys), not_made=tuple(left_out)
        )


_worker: Runner | None = None


def _was_interrupted(result: dg.ExecuteInProcessResult, name: str) -> bool:
    """Whether a signal ended the run.

    It may have done so in a step, which then failed with the error ``name``, or outside any step,
    such as while one waited for its pool.
    """
    if name:
        return name == "DagsterExecutionInterruptedError"
    failures = [
        event.job_failure_data
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.RUN_FAILURE
    ]
    return any(f.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION for f in failures)


def _first_failure(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """Return class name and message of the error that the failed step's own code raised."""
    for event in result.all_events:
        if event.is_step_failure and (error := event.step_failure_data.error):
            cause = error.cause or error
            message = cause.message.strip()
            # Our own messages need no class name before them; any other error does.
            is_own = message.startswith("mdel_assets.errors.")
            return cause.cls_name or "", message.split(": ", 1)[1] if is_own else message
    return "", "the run failed before its first step"
