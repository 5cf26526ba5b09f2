"""Pools that keep their limit also when two runs ask in the same moment.

Dagster (1.13) claims a pool's slot in two statements: it reads which slot is free, and then writes
its run into that slot, whoever is in it by then. Both of its databases let another process in
between (SQLite begins no transaction for a read, PostgreSQL commits each statement), and then two
runs hold one slot. Here one statement takes a slot, if it is still free.
"""

import sqlalchemy
from dagster._core.storage.event_log.schema import ConcurrencySlotsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._utils.concurrency import ConcurrencySlotStatus


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


def keep_limits_of_pools() -> None:
    """Let every storage of this process claim slots by `claim_free_slot`."""
    SqlEventLogStorage._claim_concurrency_slot = claim_free_slot  # type: ignore[assignment, method-assign]
