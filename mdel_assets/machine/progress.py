"""Progress: a line in the log every so often, with the time that is left."""

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN = 15.0


class Progress:
    """Logs how far a long loop is: what ``words`` makes of it, and the seconds left.

    ``total`` and ``done`` are in one unit. Where the total is None, no time is told.
    """

    def __init__(
        self, words: Callable[["Progress"], str], *, total: float | None, done: float = 0.0
    ) -> None:
        self.total, self.done = total, done
        self._words = words
        self._done_before = done
        self._started = self._reported = time.monotonic()

    def add(self, count: float) -> None:
        """Note that ``count`` more are done."""
        self.reach(self.done + count)

    def reach(self, done: float) -> None:
        """Note how much is done in all; log it unless that happened a moment ago."""
        self.done = done
        now = time.monotonic()
        if now - self._reported < _SECONDS_BETWEEN:
            return
        self._reported = now
        left = ""
        if self.total is not None:
            left = f", {(self.total - done) / max(self.rate, 1e-9):.0f} s left"
        _log.info("%s%s", self._words(self), left)

    @property
    def elapsed_seconds(self) -> float:
        """How long ago it began."""
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def rate(self) -> float:
        """How much was done per second."""
        return (self.done - self._done_before) / self.elapsed_seconds
