"""The executor of every run that Dagster itself starts."""

import dagster as dg


@dg.executor(  # type: ignore[call-overload, untyped-decorator]
    name="in_process", config_schema=dg.in_process_executor.config_schema
)
def in_process_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """Dagster's in-process executor, with pools that keep their limits."""
    # Imported here, so that loading the definitions does not load the database library (27 MiB).
    from mdel_assets.defs.interrupts import answer_interrupts
    from mdel_assets.defs.pools import keep_limits_of_pools

    keep_limits_of_pools()
    answer_interrupts()
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return create(context)
