"""Note that this process was told to end, so that it can first save its work."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class Termination:
    """Whether a process was told to end: by which signal."""

    signal_name: str = ""

    @property
    def is_cancellation(self) -> bool:
        """Whether a person asked: Ctrl-C, or "Terminate" in the web UI."""
        return self.signal_name == signal.SIGINT.name


@contextlib.contextmanager
def noticing_termination() -> Iterator[Termination]:
    """Yield a `Termination` that notes SIGTERM and SIGINT instead of their default effect."""
    noted = Termination()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread can set signal handlers.
        yield noted
        return

    def note(number: int, _: Any) -> None:
        noted.signal_name = signal.Signals(number).name

    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, note) for number in signals]
    try:
        yield noted
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
