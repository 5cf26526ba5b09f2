"""The text of a sequence as its tokens come: what may be shown, and where it has to stop."""

import dataclasses
from collections.abc import Callable, Sequence

from mdel_assets.serving.orders import ScoredToken


class GrowingText:
    """Takes tokens and gives back text that will not be taken back.

    Held back is what may be the beginning of one of ``stops``. A stop is not part of the text, and
    tokens that begin behind the end are left out. ``add`` is a decoder that takes a token id and
    returns the text that has become certain with it, ``rest`` what it still holds.
    """

    def __init__(
        self, add: Callable[[int], str], rest: Callable[[], str], *, stops: Sequence[str]
    ) -> None:
        self._add = add
        self._rest = rest
        self._stops = stops
        self._held = ""
        self._num_shown = 0
        self._tokens: list[ScoredToken] = []
        self.is_stopped = False

    def put(self, token: ScoredToken) -> tuple[str, tuple[ScoredToken, ...]]:
        """Add a token; return the text that may be shown now, with its tokens."""
        start = self._num_shown + len(self._held)
        self._tokens.append(dataclasses.replace(token, start=start))
        self._held += self._add(token.id)
        return self._show(self._certain())

    def end(self, *, token: ScoredToken | None = None) -> tuple[str, tuple[ScoredToken, ...]]:
        """Return what is left, at the sequence's end; ``token`` is an end-of-text without text."""
        self._held += self._rest()
        length = self._certain()
        if self.is_stopped:
            return self._show(length)
        if token is not None:
            start = self._num_shown + len(self._held)
            self._tokens.append(dataclasses.replace(token, start=start))
        text, tokens = self._show(len(self._held))
        return text, tokens + tuple(self._tokens)

    def _certain(self) -> int:
        """Return how many of the held characters may be shown; note whether a stop was found."""
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return min(found)
        return len(self._held) - max(
            (_overlap(self._held, stop) for stop in self._stops), default=0
        )

    def _show(self, length: int) -> tuple[str, tuple[ScoredToken, ...]]:
        text, self._held = self._held[:length], self._held[length:]
        self._num_shown += length
        shown = [token for token in self._tokens if token.start < self._num_shown]
        self._tokens = self._tokens[len(shown) :]
        return text, tuple(shown)


def _overlap(text: str, stop: str) -> int:
    """Return how many of the last characters of ``text`` may begin ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
