"""The memory of the server: which models are loaded, and what running sequences set aside."""

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
        self._loaded: dict[str, Speaker] = {}
        self._num_sequences: dict[str, int] = {}
        self.cache_bytes = self.weight_bytes = 0

    @property
    def num_loaded(self) -> int:
        """How many models and ensembles are loaded."""
        return len(self._loaded)

    def holds(self, name: str) -> bool:
        """Whether a model is loaded."""
        return name in self._loaded

    def speaker(self, name: str) -> "Speaker | None":
        """Return a model, loaded if it has to be; None where that has to wait for others to end.

        Raises:
            RefusedRequestError: it cannot be loaded, or is too large for the limit.

        """
        if not self.holds(name):
            if not self._is_free(name, lambda: self._speakers.bytes_at_most(name)):
                return None
            try:
                self._loaded[name] = self._speakers.load(name)
            except MdelError as error:
                message = f"{name} cannot be loaded. {error}"
                raise RefusedRequestError(message, status=503, code="model_unavailable") from error
            self.weight_bytes = self._speakers.held_bytes
            _log.info("loaded %s: %.0f MiB in all", name, self.weight_bytes / 2**20)
        self._loaded[name] = self._loaded.pop(name)
        return self._loaded[name]

    def set_aside(self, speaker: "Speaker", num_tokens: int) -> int | None:
        """Keep memory for a sequence of ``num_tokens``; return the bytes, None where it must wait.

        Raises:
            RefusedRequestError: it is too long for the limit, even with no other sequence.

        """
        num_bytes = num_tokens * speaker.cache_bytes_per_token
        if not self._is_free(speaker.name, lambda: num_bytes):
            return None
        self.cache_bytes += num_bytes
        self._num_sequences[speaker.name] = self._num_sequences.get(speaker.name, 0) + 1
        return num_bytes

    def give_back(self, speaker: "Speaker", num_bytes: int) -> None:
        """Free what `set_aside` kept for a sequence."""
        self.cache_bytes -= num_bytes
        self._num_sequences[speaker.name] -= 1
        if not self._num_sequences[speaker.name]:
            del self._num_sequences[speaker.name]

    def _is_free(self, name: str, needed: Callable[[], int]) -> bool:
        """Whether so many bytes are free for ``name``, once idle models are let go."""
        if self.max_bytes is None:
            return True
        # Each model that goes may take weights along that the new one would have shared.
        while (total := self.weight_bytes + self.cache_bytes + needed()) > self.max_bytes:
            idle = [key for key in self._loaded if key not in self._num_sequences and key != name]
            if not idle:
                if self._num_sequences:
                    return False
                raise RefusedRequestError(
                    f"{name} with this request needs {_mebibytes(total)} of memory, and "
                    f"{_mebibytes(self.max_bytes)} may be used (--max-memory).",
                    status=503,
                    code="too_little_memory",
                )
            self._release(idle[0])
        return True

    def _release(self, name: str) -> None:
        del self._loaded[name]
        self._speakers.release(name)
        self.weight_bytes = self._speakers.held_bytes
        _log.info("let go of %s: %.0f MiB in all", name, self.weight_bytes / 2**20)


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
