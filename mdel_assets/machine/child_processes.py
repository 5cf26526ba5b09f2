"""Child processes that ignore Ctrl-C, which their parent handles.

A terminal sends Ctrl-C to a process and to all its children. A child that receives it while it
still loads its libraries, or that does not handle it, prints its own traceback.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

_INTERRUPT = {signal.SIGINT}
_REPEAT_SECONDS = 0.5
_STARTED_BY = "MDEL_STARTED_BY"


@contextlib.contextmanager
def children_deaf_to_interrupts() -> Iterator[None]:
    """Let processes started in the block ignore SIGINT; one that arrives is handled afterwards."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def workers_deaf_to_interrupts() -> Iterator[None]:
    """The same for processes that are started by multiprocessing."""
    # Before the first of them, multiprocessing starts one more process, and unblocks SIGINT there.
    resource_tracker.ensure_running()
    with children_deaf_to_interrupts():
        yield


def hear_interrupts() -> None:
    """Let this process, started with SIGINT ignored, handle it again."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)


@contextlib.contextmanager
def ending_children() -> Iterator[None]:
    """End all of this process's multiprocessing children if the block raises."""
    try:
        yield
    except BaseException:
        # A process that is told during a finalizer may miss the signal.
        while children := multiprocessing.active_children():
            for child in children:
                child.terminate()
            wait([child.sentinel for child in children], timeout=_REPEAT_SECONDS)
        raise


def end_with_parent() -> None:
    """Let this process end with its parent; otherwise it would wait forever for work.

    Does nothing in a process that multiprocessing did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def naming_this_process() -> dict[str, str]:
    """Return the environment by which `end_with_starter` knows this process."""
    return {_STARTED_BY: f"{socket.gethostname()} {os.getpid()}"}


def end_with_starter(environment: Mapping[str, str] = os.environ) -> None:
    """Let this process end with its parent, and with the one that `naming_this_process` named.

    Between the two there may be a launcher, which does not end when what started it is killed.
    Does nothing where no process of this machine is named.
    """
    host, _, starter = environment.get(_STARTED_BY, "").rpartition(" ")
    if host == socket.gethostname():
        for pid in {int(starter), os.getppid()}:
            threading.Thread(target=_end_after_process, args=(pid,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _end_after_process(pid: int) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    os._exit(1)
