"""Ctrl-C of a run: heard whatever the run is doing, and answered by the run alone.

For each step Dagster (1.13) starts two processes that pass on what the step prints, and two that
watch over these. Ctrl-C in a terminal reaches them too, and the watchers answer it with tracebacks
that bury the sentence of the run itself. They end with the step anyway.

Python drops an exception that a signal's handler raises while a finalizer happens to run. Such a
signal is sent again.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution import compute_logs

from mdel_assets.child_processes import children_deaf_to_interrupts

_tail = compute_logs.execute_posix_tail
_report_unraisable = sys.unraisablehook
_AGAIN_SECONDS = 0.05


@contextlib.contextmanager
def _deaf_tail(path: str, stream: Any) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        with children_deaf_to_interrupts():
            pids = stack.enter_context(_tail(path, stream))
        yield pids


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt | DagsterExecutionInterruptedError):
        _report_unraisable(dropped)
        return
    # Later: what is sent from within this function may be dropped like the first.
    again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def answer_interrupts() -> None:
    """Let Ctrl-C always reach this process's run, and nothing that prints the run's output."""
    compute_logs.execute_posix_tail = _deaf_tail
    sys.unraisablehook = _send_again
