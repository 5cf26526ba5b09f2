"""What a test server does wrong: by plan, or by chance, and then by nothing but a seed."""

import dataclasses
import hashlib
import re
import threading

ERROR = "error"
CUT_REQUEST = "cut request"
CUT_ANSWER = "cut answer"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    ``error`` answers ``status`` without doing anything. ``cut request`` reads half of what is sent
    and closes the connection. ``cut answer`` does what was asked and closes the connection in the
    middle of its answer.
    """

    kind: str
    status: int = 500
    retry_after: int | None = None


@dataclasses.dataclass
class _Planned:
    method: str
    path: re.Pattern[str]
    fault: Fault
    times: int


class Faults:
    """Draws for each request what goes wrong with it.

    The draw depends on the seed, the method, the path and how often they were asked for, so that
    the order in which threads ask changes nothing.
    """

    def __init__(self, *, seed: int = 0, errors: float = 0.0, cuts: float = 0.0) -> None:
        self.seed = seed
        self.errors = errors
        self.cuts = cuts
        self.happened: list[tuple[str, str, Fault]] = []
        self._planned: list[_Planned] = []
        self._asked: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def plan(self, method: str, path: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next ``times`` requests of ``method`` whose path matches go wrong."""
        self._planned.append(_Planned(method, re.compile(path), fault, times))

    def draw(self, method: str, path: str) -> Fault | None:
        """Return what goes wrong with this request, or None."""
        with self._lock:
            fault = self._draw(method, path)
            if fault:
                self.happened.append((method, path, fault))
            return fault

    def _draw(self, method: str, path: str) -> Fault | None:
        for planned in self._planned:
            if planned.times and planned.method == method and planned.path.search(path):
                planned.times -= 1
                return planned.fault
        count = self._asked[method, path] = self._asked.get((method, path), 0) + 1
        digest = hashlib.sha256(f"{self.seed} {method} {path} {count}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        if draw < self.errors:
            return Fault(ERROR)
        if draw < self.errors + self.cuts:
            return Fault(CUT_REQUEST if digest[8] % 2 else CUT_ANSWER)
        return None
