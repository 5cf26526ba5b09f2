"""The executor of every run that Dagster itself starts."""

import dagster as dg


@dg.executor(  # type: ignore[call-overload, untyped-decorator]
    name="in_process", config_schema=dg.in_process_executor.config_schema
)
def in_process_executor(context: dg.InitExecutorContext) -> dg.Executor:
    """All steps in the run's own process, as Dagster has it, with pools that keep their limits."""
    # A process that only loads the definitions does without the database's library: 27 MiB.
    from mdel_assets.defs.interrupts import answer_interrupts
    from mdel_assets.defs.pools import keep_limits_of_pools

    keep_limits_of_pools()
    answer_interrupts()
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None
    return create(context)
