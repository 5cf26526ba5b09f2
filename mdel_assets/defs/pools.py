"""Pools that keep their limits, even when two runs ask for a slot at the same moment.

Dagster (1.13) claims a pool's slot in two statements: it reads which slot is free, and then writes
its run into that slot, even if the slot was taken meanwhile. Both databases allow another process
in between (SQLite begins no transaction for a read, PostgreSQL commits each statement), and then
two runs hold one slot. Here a single statement takes a slot if it is still free.

A killed run keeps its slots. Dagster's steps then wait for them forever, silently, using a CPU core
and ignoring signals. Here a waiting step frees the slots of runs that have ended or whose process
is gone, logs which run it waits for, sleeps between attempts, and ends when it is told to. Each run
that asks for a slot gets a tag with its machine's name, because processes of another machine are
not visible here.
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
from mdel_assets.defs.run_labels import MACHINE_TAG, tag_with_machine

_log = logging.getLogger(__name__)
_claim = SqlEventLogStorage.claim_concurrency_slot
_LOOK_SECONDS = 1.0
_TELL_SECONDS = 15.0
_told: dict[tuple[str, str], float] = {}


def claim_free_slot(
    storage: SqlEventLogStorage, concurrency_key: str, run_id: str, step_key: str
) -> ConcurrencySlotStatus:
    """Write a step into a free slot of the pool ``concurrency_key``.

    If another run is faster, the step stays blocked and Dagster asks again.
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
    """Claim a slot of the pool ``concurrency_key``, even one that a dead run holds.

    Raises:
        DagsterExecutionInterruptedError: a signal arrived during the wait.

    """
    if storage.has_instance:
        tag_with_machine(storage._instance, run_id)
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


def _holders(storage: SqlEventLogStorage, pool: str) -> set[str]:
    """Return the ids of runs that hold a slot or have one reserved."""
    info = storage.get_concurrency_info(pool)
    promised = {step.run_id for step in info.pending_steps if step.assigned_timestamp}
    return {slot.run_id for slot in info.claimed_slots} | promised


def _free_where_dead(storage: SqlEventLogStorage, run_id: str) -> bool:
    """Free the slots of a run that has ended, or whose process is known to be gone."""
    instance = storage._instance
    record = instance.get_run_record_by_id(run_id)
    if record is not None and not record.dagster_run.is_finished:
        is_here = record.dagster_run.tags.get(MACHINE_TAG) == socket.gethostname()
        why = why_dead(instance, record) if is_here else ""
        if not why:
            return False
        _log.warning("run %s is marked as failed and its pool slots are freed: %s", run_id[:8], why)
        instance.report_run_failed(record.dagster_run, f"Marked as failed: {why}.")
    storage.free_concurrency_slots_for_run(run_id)
    return True


def _tell(storage: SqlEventLogStorage, pool: str, run_id: str, holders: list[str]) -> None:
    """Log every 15 seconds which runs a step of ``run_id`` waits for."""
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
    """Make every storage of this process claim slots as this module does."""
    SqlEventLogStorage._claim_concurrency_slot = claim_free_slot  # type: ignore[assignment, method-assign]
    SqlEventLogStorage.claim_concurrency_slot = claim_past_the_dead  # type: ignore[assignment, method-assign]
