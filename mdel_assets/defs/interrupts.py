"""Ctrl-C during a run: it always reaches the run, and only the run answers it.

For each step Dagster (1.13) starts two processes that forward the step's output, and two that watch
these. Ctrl-C in a terminal reaches them, too, and the watchers print tracebacks that hide the run's
own message. So they ignore Ctrl-C; they end with the step anyway.

Python drops an exception that a signal handler raises while a finalizer runs, so such a signal is
sent again. While a run begins and ends, Dagster notes SIGINT and SIGTERM instead of raising them,
and forgets the note when the run is over; `noting_signals` remembers it.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution import compute_logs

from mdel_assets.machine.child_processes import children_deaf_to_interrupts

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
    # Sent later, because a signal sent from within this function could be dropped like the first.
    again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def answer_interrupts() -> None:
    """Let Ctrl-C always reach this process's run, but not the processes that print its output."""
    compute_logs.execute_posix_tail = _deaf_tail
    sys.unraisablehook = _send_again


@contextlib.contextmanager
def noting_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM arrived since, whatever handled it.

    Python writes each signal's number into a pipe before any handler sees it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    _let_children_go()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    seen: set[int] = set()

    def has_come() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.update(os.read(reading, 1024))
        return bool({signal.SIGINT, signal.SIGTERM} & seen)

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield has_come
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


@functools.cache
def _let_children_go() -> None:
    """Keep a forked child's signals apart from this process's."""
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
