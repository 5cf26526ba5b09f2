"""The memory of the server: which models are loaded, and what running sequences set aside."""

import collections
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mdel_assets.errors import MdelError
from mdel_assets.serving.refusals import RefusedRequestError

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker
    from mdel_assets.generation.speakers import Speakers

_log = logging.getLogger(__name__)


class Room:
    """Loads models when they are asked for, and lets go of those that were used least recently.

    Weights and the caches of sequences together stay below ``max_bytes``; None is no limit. What
    models share counts once. Belongs to one thread.
    """

    def __init__(self, speakers: "Speakers", *, max_bytes: int | None) -> None:
        self._speakers = speakers
        self.max_bytes = max_bytes
        # In the order of their last use.
        self._loaded: collections.OrderedDict[str, Speaker] = collections.OrderedDict()
        # Of sequences, by model: as long as they may get.
        self._lengths: dict[str, list[int]] = {}
        self.cache_bytes = self.weight_bytes = 0

    @property
    def num_loaded(self) -> int:
        """How many models and ensembles are loaded."""
        return len(self._loaded)

    def holds(self, name: str) -> bool:
        """Whether a model is loaded."""
        return name in self._loaded

    def fingerprint(self, name: str) -> str | None:
        """Return the fingerprint of a model that is loaded, None for another; for any thread."""
        speaker = self._loaded.get(name)
        return speaker.fingerprint if speaker else None

    def speaker(self, name: str) -> "Speaker | None":
        """Return a model, loaded if it has to be; None where that has to wait for others to end.

        Raises:
            RefusedRequestError: it cannot be loaded, or is too large for the limit.

        """
        if not self.holds(name):
            more = functools.partial(self._speakers.bytes_at_most, name)
            if not self._is_free(name, more, alone=more):
                return None
            try:
                self._loaded[name] = self._speakers.load(name)
            except MdelError as error:
                message = f"{name} cannot be loaded. {error}"
                raise RefusedRequestError(message, status=503, code="model_unavailable") from error
            self.weight_bytes = self._speakers.held_bytes
            _log.info("loaded %s: %.0f MiB in all", name, self.weight_bytes / 2**20)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def set_aside(self, speaker: "Speaker", num_tokens: int) -> bool:
        """Keep memory for a sequence of ``num_tokens``, padding included; False: it has to wait.

        Raises:
            RefusedRequestError: it is too long for the limit, even with no other sequence.

        """
        lengths = self._lengths.get(speaker.name, [])
        more = speaker.cache_bytes([*lengths, num_tokens]) - speaker.cache_bytes(lengths)

        def alone() -> int:
            return self._speakers.bytes_of(speaker.name) + speaker.cache_bytes([num_tokens])

        if not self._is_free(speaker.name, lambda: more, alone=alone):
            return False
        self.cache_bytes += more
        self._lengths[speaker.name] = [*lengths, num_tokens]
        return True

    def give_back(self, speaker: "Speaker", num_tokens: int) -> None:
        """Free what `set_aside` kept for a sequence."""
        lengths = self._lengths[speaker.name]
        self.cache_bytes -= speaker.cache_bytes(lengths)
        lengths.remove(num_tokens)
        self.cache_bytes += speaker.cache_bytes(lengths)
        if not lengths:
            del self._lengths[speaker.name]

    def _is_free(self, name: str, more: Callable[[], int], *, alone: Callable[[], int]) -> bool:
        """Whether so many more bytes are free for ``name``, once idle models are let go.

        ``alone`` is what it takes at least with nothing else: if that is too much, no model is let
        go.
        """
        if self.max_bytes is None or self._total(more) <= self.max_bytes:
            return True
        if (least := alone()) > self.max_bytes:
            raise _too_large(name, least, self.max_bytes)
        # Each model that goes may take weights along that the new one would have shared.
        while (total := self._total(more)) > self.max_bytes:
            idle = [key for key in self._loaded if key not in self._lengths and key != name]
            if idle:
                self._release(idle[0])
            elif self._lengths:
                return False
            else:
                raise _too_large(name, total, self.max_bytes)
        return True

    def _total(self, more: Callable[[], int]) -> int:
        return self.weight_bytes + self.cache_bytes + more()

    def _release(self, name: str) -> None:
        del self._loaded[name]
        self._speakers.release(name)
        self.weight_bytes = self._speakers.held_bytes
        _log.info("let go of %s: %.0f MiB in all", name, self.weight_bytes / 2**20)


def _too_large(name: str, num_bytes: int, max_bytes: int) -> RefusedRequestError:
    return RefusedRequestError(
        f"{name} with this request needs {_mebibytes(num_bytes)} of memory, and "
        f"{_mebibytes(max_bytes)} may be used. Ask for fewer tokens, or raise --max-memory.",
        status=503,
        code="too_little_memory",
        may_pass=False,
    )


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
