"""Retries: which errors are transient, and how long to wait before the next attempt."""

import dataclasses
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mdel_assets.errors import HubError, MdelError, transient

_log = logging.getLogger(__name__)
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
# The repository was changed by someone else in between: look at it again.
_MOVED_ON = {409, 412}
_OF_XET = "CAS Client Error"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often a request is made, and how long is waited in between.

    Waits double from ``first_wait_seconds`` on, up to ``longest_wait_seconds``. A server that says
    how long to wait is waited for, up to ``longest_told_seconds``.
    """

    num_attempts: int = 8
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 30.0
    longest_told_seconds: float = 900.0

    def wait_seconds(self, attempt: int, told: float | None) -> float:
        """Return how long to wait after ``attempt`` attempts, given what the server told."""
        if told is not None:
            return min(told, self.longest_told_seconds)
        doubled = self.first_wait_seconds * 2.0 ** (attempt - 1)
        longest = min(self.longest_wait_seconds, doubled)
        return longest * random.uniform(0.5, 1.0)


def with_retries(
    action: Callable[[], T],
    *,
    what: str,
    retries: RetryPolicy,
    raises: type[MdelError] = HubError,
    remedy: str = "Check the name, and HF_TOKEN if it is private.",
) -> T:
    """Return what ``action`` returns, tried again where the server was busy or the line broke.

    ``raises`` is the error where the server refused, with ``remedy``, or stayed unreachable. An
    error that no retry can mend, and that is not the server's, passes through.
    """
    for attempt in range(1, retries.num_attempts + 1):
        try:
            return action()
        except MdelError:
            raise
        except Exception as error:
            status, told = _answer_of(error)
            if status is None and not _is_broken_line(error):
                raise
            if status is not None and status not in RETRIED_STATUSES | _MOVED_ON:
                raise raises(
                    f"{what}: the server refused ({status}): {_message_of(error)} {remedy}"
                ) from error
            if attempt == retries.num_attempts:
                raise transient(
                    raises(
                        f"{what}: {attempt} attempts failed, the last with: {_message_of(error)} "
                        f"Nothing is half done: run the same command again, and what was sent or "
                        f"fetched is kept."
                    )
                ) from error
            wait = retries.wait_seconds(attempt, told)
            _log.warning("%s: %s; asking again in %.0f s", what, _message_of(error), wait)
            time.sleep(wait)
    raise AssertionError("num_attempts is at least 1")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _answer_of(error: BaseException) -> tuple[int | None, float | None]:
    """Return the status that the server answered with, and for how long it says to wait."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for cause in _chain(error):
        if isinstance(cause, HfHubHTTPError | httpx2.HTTPStatusError):
            told = cause.response.headers.get("Retry-After", "")
            return cause.response.status_code, float(told) if told.isdigit() else None
    return None, None


def _is_broken_line(error: BaseException) -> bool:
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    broken = (httpx2.TransportError, ConnectionError, TimeoutError)
    return any(
        (isinstance(cause, broken) and not isinstance(cause, OfflineModeIsEnabled))
        # Xet raises Python's own errors, and for what it fetches one that is of no class.
        or (isinstance(cause, RuntimeError) and _OF_XET in str(cause))
        for cause in _chain(error)
    )


def _message_of(error: BaseException) -> str:
    """Return what went wrong on one line."""
    lines = [line for line in str(error).splitlines() if not line.startswith("For more info")]
    words = " ".join(" ".join(lines).split())
    return f"{type(error).__name__}: {words[:300]}"
