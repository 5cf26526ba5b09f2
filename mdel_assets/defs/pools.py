"""Pools that keep their limit also when two runs ask in the same moment.

Dagster (1.13) claims a pool's slot in two statements: it reads which slot is free, and then writes
its run into that slot, whoever is in it by then. Both of its databases let another process in
between (SQLite begins no transaction for a read, PostgreSQL commits each statement), and then two
runs hold one slot. Here one statement takes a slot, if it is still free.

A run that was killed keeps its slots, and Dagster's steps wait for them for ever, without a word,
with a processor in use and deaf to signals. Here a step that has to wait frees the slots of runs
that have ended or whose process is gone, says whom it waits for, sleeps, and ends when it is told.
Each run that asks for a slot gets a tag with its machine's name, for of another machine's processes
nothing is known here.
"""

import logging
import socket
import time

import dagster as dg
import sqlalchemy
from dagster._core.errors import raise_execution_interrupts
from dagster._core.storage.event_log.schema import ConcurrencySlotsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._utils.concurrency import ConcurrencyClaimStatus, ConcurrencySlotStatus

from mdel_assets.defs.examination import why_dead

_log = logging.getLogger(__name__)
_claim = SqlEventLogStorage.claim_concurrency_slot
_LOOK_SECONDS = 1.0
_TELL_SECONDS = 15.0
_MACHINE_TAG = "mdel/machine"
_told: dict[tuple[str, str], float] = {}


def claim_free_slot(
    storage: SqlEventLogStorage, concurrency_key: str, run_id: str, step_key: str
) -> ConcurrencySlotStatus:
    """Write a step into a free slot of the pool ``concurrency_key``.

    Where another run is faster, the step stays blocked and Dagster asks for it again.
    """
    slots = ConcurrencySlotsTable.c
    is_free = sqlalchemy.and_(slots.step_key.is_(None), slots.deleted.is_(False))
    first_free = (
        sqlalchemy.select(slots.id)
        .where(slots.concurrency_key == concurrency_key, is_free)
        .limit(1)
        .scalar_subquery()
    )
    claim = (
        sqlalchemy.update(ConcurrencySlotsTable)
        .where(slots.id == first_free, is_free)
        .values(run_id=run_id, step_key=step_key)
    )
    with storage.index_connection() as connection:
        num_claimed = connection.execute(claim).rowcount
    return ConcurrencySlotStatus.CLAIMED if num_claimed else ConcurrencySlotStatus.BLOCKED


def claim_past_the_dead(
    storage: SqlEventLogStorage,
    concurrency_key: str,
    run_id: str,
    step_key: str,
    priority: int | None = None,
) -> ConcurrencyClaimStatus:
    """Claim a slot of the pool ``concurrency_key``, also one that a dead run holds.

    Raises:
        DagsterExecutionInterruptedError: a signal came while the slot was waited for.

    """
    if storage.has_instance:
        _tag_with_machine(storage._instance, run_id)
    status = _claim(storage, concurrency_key, run_id, step_key, priority)
    if status.is_claimed or not storage.has_instance:
        return status
    holders = _holders(storage, concurrency_key) - {run_id}
    freed = [holder for holder in sorted(holders) if _free_where_dead(storage, holder)]
    if freed:
        return _claim(storage, concurrency_key, run_id, step_key, priority)
    _tell(storage, concurrency_key, run_id, sorted(holders))
    with raise_execution_interrupts():
        time.sleep(_LOOK_SECONDS)
    # Dagster asks again without another pause.
    again: ConcurrencyClaimStatus = status.with_sleep_interval(0.0)  # type: ignore[no-untyped-call, unused-ignore]
    return again


def _tag_with_machine(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    # A run that is started once more has the tags of the first.
    if run is not None and run.tags.get(_MACHINE_TAG) != socket.gethostname():
        instance.add_run_tags(run_id, {_MACHINE_TAG: socket.gethostname()})


def _holders(storage: SqlEventLogStorage, pool: str) -> set[str]:
    """Return the ids of runs that hold a slot, or to which one is promised."""
    info = storage.get_concurrency_info(pool)
    promised = {step.run_id for step in info.pending_steps if step.assigned_timestamp}
    return {slot.run_id for slot in info.claimed_slots} | promised


def _free_where_dead(storage: SqlEventLogStorage, run_id: str) -> bool:
    """Free the slots of a run that has ended, or whose process is known to be gone."""
    instance = storage._instance
    record = instance.get_run_record_by_id(run_id)
    if record is not None and not record.dagster_run.is_finished:
        is_here = record.dagster_run.tags.get(_MACHINE_TAG) == socket.gethostname()
        why = why_dead(instance, record) if is_here else ""
        if not why:
            return False
        _log.warning("run %s is marked as failed and holds no pool any more: %s", run_id[:8], why)
        instance.report_run_failed(record.dagster_run, f"Marked as failed: {why}.")
    storage.free_concurrency_slots_for_run(run_id)
    return True


def _tell(storage: SqlEventLogStorage, pool: str, run_id: str, holders: list[str]) -> None:
    """Say every quarter of a minute which runs a step of ``run_id`` waits for."""
    now = time.monotonic()
    if now - _told.get((pool, run_id), -_TELL_SECONDS) < _TELL_SECONDS:
        return
    _told[pool, run_id] = now
    runs = [(holder, storage._instance.get_run_by_id(holder)) for holder in holders]
    named = ", ".join(f"{holder[:8]} ({_what(run)})" for holder, run in runs if run)
    _log.warning("waiting for the pool '%s', which run %s holds", pool, named or "nobody")


def _what(run: dg.DagsterRun) -> str:
    assets = [key.to_user_string() for key in sorted(run.asset_selection or [])]
    return " ".join([*assets, run.tags.get("dagster/partition", "")]).strip() or run.job_name


def keep_limits_of_pools() -> None:
    """Let every storage of this process claim slots in the ways of this module."""
    SqlEventLogStorage._claim_concurrency_slot = claim_free_slot  # type: ignore[assignment, method-assign]
    SqlEventLogStorage.claim_concurrency_slot = claim_past_the_dead  # type: ignore[assignment, method-assign]
