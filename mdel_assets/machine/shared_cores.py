"""Compute on cores that other processes use, too.

torch's threads (OpenMP, GNU's libgomp) synchronise after every operation and spin while they wait
for each other. On otherwise idle cores nothing is faster. If another process uses the same cores, a
thread spins while it waits for one that is not running: two threads beside two busy processes train
at a twentieth of their speed.

libgomp spins a thousandth as long while its process has more OpenMP threads than cores
(``GOMP_SPINCOUNT`` in its manual). So `sharing_cores` watches how long this process's threads wait
for a core, as reported by Linux, and holds some sleeping OpenMP threads while they do. The number
of computing threads does not change, and results are the same to the bit.
"""

import contextlib
import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)
# A user who sets one of these has decided how threads wait, or where they run.
USERS_SETTINGS = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "OMP_THREAD_LIMIT",
)
_TASKS = Path("/proc/self/task")
_LOOK_SECONDS = 0.25
# Seconds of waiting for a core, of all threads together, in a second.
_CROWDED = 0.15
_QUIET = 0.05
_NUM_QUIET_LOOKS = 4
# Seconds of processor time in a second; a process that works less tells nothing.
_WORKING = 0.5
WATCH_NAME = "share-cores"
RESERVE_NAME = "omp-reserve"
_is_watched = threading.Lock()


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Keep torch's threads from spinning while other processes want their cores.

    Does nothing with one thread, with a GPU, with an OpenMP other than libgomp, on a system that
    does not report how long threads wait, or if the user set one of `USERS_SETTINGS`.
    """
    if not _can_share(os.environ) or not _is_watched.acquire(blocking=False):
        yield
        return
    watch = _Watch()
    watch.start()
    try:
        yield
    finally:
        watch.stop()
        _is_watched.release()


def leaves_waiting_to_libgomp(environment: Mapping[str, str]) -> bool:
    """Whether the user has not decided how OpenMP's threads wait."""
    return not any(name in environment for name in USERS_SETTINGS)


def _can_share(environment: Mapping[str, str]) -> bool:
    import torch

    return (
        sys.platform == "linux"
        and leaves_waiting_to_libgomp(environment)
        and torch.get_num_threads() > 1
        and not torch.cuda.is_available()
        and hasattr(ctypes.CDLL(None), "GOMP_parallel")
        and any(seconds_waited().values())
    )


def seconds_waited() -> dict[str, float]:
    """Return how long each thread of this process has waited for a core since it began.

    Empty, or zeros, where the system does not say.
    """
    waited = {}
    with contextlib.suppress(OSError):
        for task in _TASKS.iterdir():
            # A thread may end meanwhile.
            with contextlib.suppress(OSError, IndexError):
                waited[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return waited


class Crowd:
    """Whether other processes use this one's cores, judged by how long its threads wait.

    They do as soon as all threads together wait for more than 0.15 s in a second. They no longer do
    once working threads have waited for less than 0.05 s in a second at four consecutive looks.
    """

    def __init__(self, waited: Mapping[str, float], *, worked: float, now: float) -> None:
        self.is_there = False
        self._last = (dict(waited), worked, now)
        self._num_quiet = 0

    def look(self, waited: Mapping[str, float], *, worked: float, now: float) -> bool:
        """Return whether others want the cores.

        ``waited`` is what `seconds_waited` says at the time ``now``, ``worked`` the seconds of
        processor time that this process has had.
        """
        waited_before, worked_before, looked = self._last
        self._last = (dict(waited), worked, now)
        waits = sum(seconds - waited_before.get(task, seconds) for task, seconds in waited.items())
        share = waits / (now - looked)
        if share > _CROWDED:
            self.is_there = True
        if share >= _QUIET:
            self._num_quiet = 0
        elif (worked - worked_before) / (now - looked) > _WORKING:
            self._num_quiet += 1
        if self._num_quiet >= _NUM_QUIET_LOOKS:
            self.is_there = False
        return self.is_there


class _Watch:
    """Looks every so often whether cores are wanted by others, and keeps a reserve while so."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=WATCH_NAME, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        crowd = Crowd(seconds_waited(), worked=time.process_time(), now=time.monotonic())
        reserve: ThreadsInReserve | None = None
        is_told = False
        while not self._stopped.wait(_LOOK_SECONDS):
            worked, now = time.process_time(), time.monotonic()
            wanted = crowd.look(seconds_waited(), worked=worked, now=now)
            if wanted and reserve is None:
                reserve = ThreadsInReserve()
                if not is_told:
                    _log.info("other processes want these cores too: threads wait without spinning")
                    is_told = True
            elif reserve is not None and not wanted:
                reserve.end()
                reserve = None
        if reserve is not None:
            reserve.end()


class ThreadsInReserve:
    """OpenMP threads that sleep: as many as it takes for libgomp to find more than cores."""

    def __init__(self) -> None:
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name=RESERVE_NAME, daemon=True)
        self._thread.start()
        self._begun.wait()

    def end(self) -> None:
        """Let them go."""
        self._ended.set()
        self._thread.join()

    def _hold(self) -> None:
        import torch

        library = ctypes.CDLL(None)
        nothing = ctypes.cast(library.getpid, ctypes.c_void_p)
        num_cores = len(os.sched_getaffinity(0))
        # This thread is one of them and was counted before.
        num_threads = max(2, num_cores - torch.get_num_threads() + 2)
        # They stay until the thread ends that began them.
        library.GOMP_parallel(nothing, None, ctypes.c_uint(num_threads), ctypes.c_uint(0))
        self._begun.set()
        self._ended.wait()
