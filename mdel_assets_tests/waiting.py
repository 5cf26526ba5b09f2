"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import Any


def wait_until(
    holds: Callable[[], Any],
    *,
    seconds: float = 180.0,
    what: Callable[[], str] | str = "it",
    every: float = 0.2,
) -> Any:
    """Look again and again until ``holds`` returns something true; return that.

    ``what`` says what was waited for, or tells how things stand when the time is over.
    """
    end = time.monotonic() + seconds
    while not (found := holds()):
        stands = what() if callable(what) else f"{what} did not happen in {seconds} s"
        assert time.monotonic() < end, stands
        time.sleep(every)
    return found
