"""Retries of steps that use the network: transient errors are retried with growing delays.

Downloads and uploads retry by themselves for about a minute. If that does not help, Dagster repeats
the step, up to three times over a few minutes, and shows each attempt. A mistake, such as a wrong
name or a wrong digest, fails at once.
"""

import contextlib
import logging
from collections.abc import Iterator

import dagster as dg

from mdel_assets.errors import MdelError
from mdel_assets.hub.retries import RetryPolicy

_log = logging.getLogger(__name__)
# These count repeated steps, not repeated requests.
STEP_RETRIES = RetryPolicy(num_attempts=4, first_wait_seconds=20.0, longest_wait_seconds=300.0)


@contextlib.contextmanager
def retrying_transient_errors(
    context: dg.AssetExecutionContext, retries: RetryPolicy = STEP_RETRIES
) -> Iterator[None]:
    """Ask Dagster to repeat the step after a transient error; other errors pass through.

    The delay doubles with each attempt and is shortened at random by up to a half.
    """
    try:
        yield
    except MdelError as error:
        attempt = context.retry_number + 1
        if not error.is_transient or attempt >= retries.num_attempts:
            raise
        wait = retries.wait_seconds(attempt, None)
        _log.warning("%s The step is repeated in %.0f s.", error, wait)
        raise dg.RetryRequested(
            max_retries=retries.num_attempts - 1, seconds_to_wait=wait
        ) from error
