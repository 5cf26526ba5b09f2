"""Licences of documents against the experiment's allow-list."""

import fnmatch
from collections import Counter
from collections.abc import Iterable

_NO_LICENSE = "(none)"


class LicenseFilter:
    """Says whether a licence is on the allow-list; counts those that are not."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [pattern.lower() for pattern in patterns]
        self._known: dict[str, bool] = {}
        self.refused: Counter[str] = Counter()

    def __call__(self, granted: str | None) -> bool:
        """Whether documents of this licence are taken."""
        name = granted or _NO_LICENSE
        if name not in self._known:
            found = name.lower()
            self._known[name] = any(fnmatch.fnmatchcase(found, p) for p in self._patterns)
        if not self._known[name]:
            self.refused[name[:80]] += 1
        return self._known[name]
