"""Making an artifact: lock, look, write into a staging folder, publish; the same for every kind.

What is up to date already is left alone. A kind's own function (`Kind.write`) sees a staging folder
and says what it wrote; it knows of no locks and no records. Where several processes train together,
each of them takes the step: the first publishes the artifact, and all return when it is there.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from mdel_assets.errors import (
    MdelError,
    ObjectStoreError,
    TrainingInterruptedError,
    WorkerError,
)
from mdel_assets.line.cache_limit import keep_within_limit
from mdel_assets.line.conditions import NO_CONDITIONS, Conditions
from mdel_assets.line.kind import Kind, Part, Task, Written
from mdel_assets.line.lineage import Lineage
from mdel_assets.line.locks import making
from mdel_assets.line.replicates import Replicate, split_key
from mdel_assets.machine.processes import ending_together, is_first_process, num_processes
from mdel_assets.store.artifacts import Artifact
from mdel_assets.store.digests import file_digest
from mdel_assets.store.durable_files import link_or_copy
from mdel_assets.store.in_use import use, using
from mdel_assets.store.records import Identity, Record

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Made:
    """What became of the artifacts that were to be made, each by its key.

    ``shown`` is what a page can show of those that were made just now (`Written.shown`).
    """

    records: dict[str, Record] = dataclasses.field(default_factory=dict)
    failures: dict[str, MdelError] = dataclasses.field(default_factory=dict)
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)

    def raise_failures(self) -> None:
        """Raise the one failure as it is, or all of them as one."""
        messages = {str(error) for error in self.failures.values()}
        is_alone = len(self.records) + len(self.failures) == 1
        if is_alone or (len(messages) == 1 and len(self.failures) > 1):
            for error in self.failures.values():
                raise error
        if self.failures:
            kinds = {type(error) for error in self.failures.values()}
            kind = kinds.pop() if len(kinds) == 1 else WorkerError
            if TrainingInterruptedError in kinds:
                kind = TrainingInterruptedError
            raise kind("\n".join(f"{key}: {error}" for key, error in self.failures.items()))


def make_one(
    lineage: Lineage, kind: str, key: str = "", *, conditions: Conditions = NO_CONDITIONS
) -> Record:
    """Make one artifact if it is not up to date; return its record.

    Raises:
        MdelError: what kept it from being made.

    """
    return make_all(lineage, kind, [key], conditions=conditions)[key]


def make_all(
    lineage: Lineage, kind: str, keys: Sequence[str], *, conditions: Conditions = NO_CONDITIONS
) -> dict[str, Record]:
    """Make several artifacts of a kind; return their records by key.

    Raises:
        MdelError: what kept some of them from being made; the others are made all the same.

    """
    made = make(lineage, kind, keys, conditions=conditions)
    made.raise_failures()
    return {key: made.records[key] for key in keys}


def make_shown(lineage: Lineage, kind: str, read: Callable[[Lineage], Any]) -> tuple[Record, Any]:
    """Make the one artifact of a kind; return its record, and what a page shows of it.

    That is ``read`` from what it is made of, unless it was made just now.
    """
    made = make(lineage, kind, [""])
    made.raise_failures()
    if "" not in made.shown:
        lineage.bring_inputs(kind)
    shown = made.shown[""] if "" in made.shown else read(lineage)
    return made.records[""], shown


def make(
    lineage: Lineage,
    kind: str,
    keys: Sequence[str],
    *,
    conditions: Conditions = NO_CONDITIONS,
    takes_locks: bool = True,
) -> Made:
    """Make those artifacts of a kind that are not up to date.

    One that fails by its own fault does not stop the others. Keys that share work are made
    together, the others in turn. ``takes_locks`` is False where whoever started this holds them.

    Raises:
        MdelError: keys that share work could not be made.

    """
    declared, made = lineage.registry[kind], Made()
    if lineage.remote:
        lineage.remote.look_again()
        keep_within_limit(lineage)
    if declared.replicate_of:
        return _make_replicates(
            lineage, declared, keys, conditions=conditions, takes_locks=takes_locks
        )
    groups = [list(keys)] if declared.write_together else [[key] for key in keys]
    for group in groups:
        artifacts = [lineage.artifact(kind, key) for key in group]
        try:
            with making(*artifacts if takes_locks else ()), using():
                _make_together(lineage, declared, group, conditions, made)
        except MdelError as error:
            if declared.write_together:
                raise
            made.failures[group[0]] = error
            if isinstance(error, TrainingInterruptedError):
                break
        if lineage.remote:
            for artifact in artifacts:
                # Whoever asked for it reads it next.
                use(artifact.use_path)
            keep_within_limit(lineage)
    return made


def make_part(lineage: Lineage, kind: str, keys: Sequence[str], part: Part) -> None:
    """Do one part of the work of artifacts into their work folders.

    Whoever started this holds their locks, and writes them once all parts are done.

    Raises:
        MdelError: what kept some of them from being worked on; the others are all the same.

    """
    parts = lineage.registry[kind].parts
    assert parts
    made = Made()
    for key in keys:
        lineage.bring_inputs(kind, key)
    with ExitStack() as stack:
        for key, error in parts.work(_tasks_without_stage(lineage, kind, keys, stack), part):
            if error is not None:
                made.failures[key] = error
    made.raise_failures()


def with_all_parts(lineage: Lineage, kind: str, keys: Sequence[str]) -> list[str]:
    """Return the keys of which all parts of the work are done."""
    parts = lineage.registry[kind].parts
    assert parts
    with ExitStack() as stack:
        return list(parts.whole(_tasks_without_stage(lineage, kind, keys, stack)))


def _tasks_without_stage(
    lineage: Lineage, kind: str, keys: Sequence[str], stack: ExitStack
) -> dict[str, Task]:
    """Return tasks that write into work folders alone."""
    return {
        key: Task(
            lineage,
            key,
            lineage.artifact(kind, key),
            lineage.identity(kind, key),
            None,
            NO_CONDITIONS,
            stack,
        )
        for key in keys
    }


def _make_replicates(
    lineage: Lineage,
    kind: Kind,
    keys: Sequence[str],
    *,
    conditions: Conditions,
    takes_locks: bool,
) -> Made:
    """Make artifacts of further replicates, each replicate's as those of the line are made."""
    made = Made()
    numbers = dict.fromkeys(split_key(key)[1] for key in keys)
    for number in numbers:
        own = {split_key(key)[0]: key for key in keys if split_key(key)[1] == number}
        inside = make(
            Replicate(lineage, number),
            kind.replicate_of,
            list(own),
            conditions=conditions,
            takes_locks=takes_locks,
        )
        made.records.update({own[key]: record for key, record in inside.records.items()})
        made.failures.update({own[key]: error for key, error in inside.failures.items()})
        made.shown.update({own[key]: shown for key, shown in inside.shown.items()})
        if any(isinstance(e, TrainingInterruptedError) for e in inside.failures.values()):
            break
    return made


def current_record(lineage: Lineage, kind: str, key: str = "") -> Record | None:
    """Return the record of an artifact that needs no making, and say so in the log."""
    record = lineage.current(kind, key)
    artifact = lineage.artifact(kind, key)
    if record:
        _log.info("%s is up to date; nothing to do", artifact.label)
        return lineage.settle(kind, key, record)
    if not artifact.record_path.exists():
        return None
    if (old := artifact.last_record()) and (problem := artifact.damage(old)):
        _log.warning("%s is damaged and made anew: %s", artifact.label, problem)
    return None


def _make_together(
    lineage: Lineage, kind: Kind, keys: Sequence[str], conditions: Conditions, made: Made
) -> None:
    """Make those of ``keys`` that are not up to date, and note in ``made`` what became of each."""
    with ExitStack() as stack:
        tasks: dict[str, Task] = {}
        for key in keys:
            try:
                if current := current_record(lineage, kind.name, key):
                    made.records[key] = current
                    continue
                # Before anything is read: what changes meanwhile leaves an artifact that is stale.
                identity = _identity(lineage, kind, key)
                artifact = lineage.artifact(kind.name, key)
                lineage.bring_inputs(kind.name, key)
                if linked := _linked_anew(lineage, kind, artifact, identity):
                    made.records[key] = linked
                    continue
            except MdelError as error:
                made.failures[key] = error
                continue
            stage = stack.enter_context(artifact.staging()) if is_first_process() else None
            tasks[key] = Task(lineage, key, artifact, identity, stage, conditions, stack)
        if tasks:
            stack.enter_context(ending_together())
        for key, outcome in _written(kind, tasks):
            if isinstance(outcome, MdelError):
                made.failures[key] = outcome
            elif is_first_process():
                try:
                    _publish(kind, tasks[key], outcome)
                except ObjectStoreError as error:
                    # It is made here; the others of this run may reach the store.
                    made.failures[key] = error
                    continue
                if outcome.lacking:
                    made.failures[key] = outcome.lacking
                    continue
                made.records[key] = tasks[key].artifact.require()
                made.shown[key] = outcome.shown
    for key in tasks.keys() - made.failures.keys() - made.records.keys():
        made.records[key] = lineage.artifact(kind.name, key).require()


def _written(kind: Kind, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Written | MdelError]]:
    if not tasks:
        return
    if kind.write_together:
        yield from kind.write_together(tasks)
        return
    assert kind.write
    for key, task in tasks.items():
        yield key, kind.write(task)


def _identity(lineage: Lineage, kind: Kind, key: str) -> Identity:
    if kind.current is not None:
        return lineage.source_identity(kind.name, key)
    return lineage.identity(kind.name, key)


def _publish(kind: Kind, task: Task, written: Written) -> None:
    identity = task.identity
    if written.config is not None:
        identity = dataclasses.replace(identity, config=written.config)
    known = dict(written.known_digests or {})
    if kind.links_to:
        known |= task.lineage.artifact(kind.links_to).digests_by_file()
    record = task.artifact.publish(
        task.folder,
        identity,
        counts=written.counts,
        details=written.details,
        making=written.making,
        known_digests=known,
    )
    if written.after:
        written.after(record)
    shutil.rmtree(
        task.lineage.root / "work" / task.artifact.work_name(task.identity), ignore_errors=True
    )
    # It is made, whatever the store answers: the next run only pushes it.
    task.artifact.push(record)


def _linked_anew(
    lineage: Lineage, kind: Kind, artifact: Artifact, identity: Identity
) -> Record | None:
    """Link anew the damaged files that an artifact shares with another; its record if whole then.

    Where a seed's own file was damaged, those of all its experts were: a training is dearer.
    """
    record = artifact.last_record()
    is_same = record is not None and record.fingerprint == identity.fingerprint
    if not kind.links_to or record is None or not is_same or num_processes() > 1:
        return None
    source = lineage.artifact(kind.links_to)
    whole = {file["xxh3"]: source.folder / name for name, file in source.require().files.items()}
    for name, file in record.files.items():
        path = artifact.folder / name
        is_damaged = not path.is_file() or file_digest(path) != file["xxh3"]
        if is_damaged and file["xxh3"] in whole:
            link_or_copy(whole[file["xxh3"]], path)
    return artifact.holds(identity.fingerprint)
