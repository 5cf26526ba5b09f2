"""The decoding thread: sequences of one model are decoded together, and join between its steps.

One thread holds all models and sequences, so nothing of them is locked. In each turn it lets
waiting sequences in, reads 512 tokens of new prompts at most, and takes one step with the sequences
of each model.
Sequences are let in in the order of their arrival: where the first does not fit into the memory
that is left, those behind it wait, too, so that no model is kept waiting for ever.
"""

import collections
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdel_assets.errors import GenerationError, MdelError
from mdel_assets.serving.limits import Limits
from mdel_assets.serving.meters import Meters
from mdel_assets.serving.orders import News, Order, Tell, Ticket
from mdel_assets.serving.refusals import RefusedRequestError, ending, wrong
from mdel_assets.serving.room import Room
from mdel_assets.serving.running import RunningSequence

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker
    from mdel_assets.generation.speakers import Speakers

_log = logging.getLogger(__name__)
# Tokens of prompts read in one turn: what runs waits no longer than that takes.
_PREFILL_TOKENS = 512


class Decoder:
    """Decodes what `submit` brings, in a thread of its own, until `stop`.

    ``tell`` is called in that thread, once a turn, with all that is new.
    """

    def __init__(self, speakers: "Speakers", *, limits: Limits, meters: Meters, tell: Tell) -> None:
        self._limits = limits
        self._meters = meters
        self._tell = tell
        self._room = Room(speakers, max_bytes=limits.max_memory_bytes)
        self._changed = threading.Condition()
        # Behind the lock of `_changed`; all else belongs to the thread.
        self._arrivals: list[Ticket] = []
        self._num_waiting = 0
        self._is_stopping = False
        self._queue: collections.deque[tuple[Ticket, float]] = collections.deque()
        self._running: dict[str, list[RunningSequence]] = {}
        self._news: list[tuple[Ticket, News]] = []
        self._thread = threading.Thread(target=self._run, name="decoding")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Refuse what waits and runs, and wait for the thread's end; again, it does nothing."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def fingerprint(self, name: str) -> str | None:
        """Return the fingerprint of a model that is loaded, None for another; for any thread."""
        return self._room.fingerprint(name)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Put sequences into the queue: all or none.

        Raises:
            RefusedRequestError: the queue is full, or the decoder is stopping.

        """
        with self._changed:
            if self._is_stopping:
                raise ending()
            if self._num_waiting + len(tickets) > self._limits.max_waiting:
                raise RefusedRequestError(
                    f"{self._num_waiting} sequences wait already, and {self._limits.max_waiting} "
                    f"may. Ask again later.",
                    status=429,
                    code="queue_full",
                )
            self._num_waiting += len(tickets)
            self._arrivals += tickets
            self._changed.notify()

    def _run(self) -> None:
        while self._take_arrivals():
            self._forget_cancelled()
            self._let_in()
            # Not before: others leave the memory of those that end here in their next step.
            self._end_cancelled()
            for name in list(self._running):
                self._take_step(name)
            self._measure()
            self._tell_news()
        for ticket, _ in self._queue:
            self._news.append((ticket, ending()))
        for name in list(self._running):
            self._fail(name, ending())
        self._tell_news()
        self._measure()

    def _take_arrivals(self) -> bool:
        """Wait until there is something to do; return whether to go on."""
        with self._changed:
            while not (self._arrivals or self._queue or self._running or self._is_stopping):
                self._changed.wait()
            now = time.monotonic()
            self._queue += [(ticket, now) for ticket in self._arrivals]
            self._arrivals.clear()
            return not self._is_stopping

    def _forget_cancelled(self) -> None:
        """Take out of the queue what nobody waits for."""
        kept = [entry for entry in self._queue if not entry[0].is_cancelled]
        for ticket, _ in self._queue:
            if ticket.is_cancelled:
                self._meters.sequences_ended.labels(ticket.order.model, "cancelled").inc()
        self._queue = collections.deque(kept)

    def _end_cancelled(self) -> None:
        for running in [each for group in self._running.values() for each in group]:
            if running.ticket.is_cancelled:
                self._end(running, "cancelled")

    def _let_in(self) -> None:
        """Begin sequences of the queue, as many as there is room for."""
        while self._queue and self._num_running < self._limits.max_running:
            ticket, since = self._queue[0]
            try:
                running = self._begin(ticket, since)
            except RefusedRequestError as refusal:
                self._refuse(ticket, refusal)
            except MdelError as error:
                self._refuse(ticket, wrong(str(error), param=_param_of(error)))
            except Exception:  # noqa: BLE001 - out of memory, say: the other sequences go on
                _log.exception("%s could not begin a sequence", ticket.order.model)
                self._refuse(ticket, _broken())
            else:
                if running is None:
                    break
                self._running.setdefault(ticket.order.model, []).append(running)
            self._queue.popleft()

    def _begin(self, ticket: Ticket, since: float) -> RunningSequence | None:
        """Return a new sequence, None where it has to wait for others to end."""
        order = ticket.order
        speaker = self._room.speaker(order.model)
        if speaker is None:
            return None
        num_new = _num_new_tokens(order, speaker, limits=self._limits)
        num_tokens = len(order.prompt_ids) + num_new + 1
        if not self._room.set_aside(speaker, num_tokens):
            return None
        try:
            running = RunningSequence(
                ticket, speaker, max_new_tokens=num_new, num_tokens=num_tokens, waits_since=since
            )
        except BaseException:
            self._room.give_back(speaker, num_tokens)
            raise
        self._meters.prompt_tokens.labels(order.model).inc(len(order.prompt_ids))
        return running

    def _take_step(self, name: str) -> None:
        """Read more of new prompts, and write one token of each sequence that is ready."""
        try:
            group = self._running[name]
            group[0].speaker.prefill_together([each.sequence for each in group], _PREFILL_TOKENS)
            self._write(name)
        except Exception:  # noqa: BLE001 - the other models go on
            _log.exception("%s could not decode", name)
            self._fail(name, _broken())

    def _write(self, name: str) -> None:
        # Nothing else knows what has ended: its memory is free before the others' step.
        going = [each for each in list(self._running[name]) if each.is_ready and self._put(each)]
        if going:
            speaker = going[0].speaker
            speaker.step([each.sequence for each in going], [each.token for each in going])

    def _put(self, running: RunningSequence) -> bool:
        """Write one token of a sequence; return whether it goes on."""
        name, before = running.ticket.order.model, running.num_written
        piece = running.put_next()
        self._news.append((running.ticket, piece))
        self._meters.generated_tokens.labels(name).inc(piece.num_tokens - before)
        if before == 0 and piece.num_tokens:
            seconds = time.monotonic() - running.waits_since
            self._meters.first_token_seconds.labels(name).observe(seconds)
        if piece.finish_reason:
            self._end(running, piece.finish_reason)
        return not piece.finish_reason

    def _end(self, running: RunningSequence, reason: str) -> None:
        """Forget a sequence, and free its memory."""
        name = running.ticket.order.model
        self._running[name].remove(running)
        if not self._running[name]:
            del self._running[name]
        self._room.give_back(running.speaker, running.num_tokens)
        self._meters.sequences_ended.labels(name, reason).inc()

    def _fail(self, name: str, refusal: RefusedRequestError) -> None:
        """End all sequences of a model."""
        for running in list(self._running.get(name, ())):
            self._news.append((running.ticket, refusal))
            self._end(running, "failed")

    def _refuse(self, ticket: Ticket, refusal: RefusedRequestError) -> None:
        self._news.append((ticket, refusal))
        self._meters.sequences_ended.labels(ticket.order.model, "failed").inc()

    @property
    def _num_running(self) -> int:
        return sum(map(len, self._running.values()))

    def _measure(self) -> None:
        meters = self._meters
        with self._changed:
            self._num_waiting = len(self._queue) + len(self._arrivals)
            meters.sequences_waiting.set(self._num_waiting)
        meters.sequences_running.set(self._num_running)
        meters.models_loaded.set(self._room.num_loaded)
        meters.weight_bytes.set(self._room.weight_bytes)
        meters.cache_bytes.set(self._room.cache_bytes)

    def _tell_news(self) -> None:
        if self._news:
            news, self._news = self._news, []
            self._tell(news)


def _num_new_tokens(order: Order, speaker: "Speaker", *, limits: Limits) -> int:
    """Return how many tokens are written at most.

    Raises:
        RefusedRequestError: they do not fit into the model's context.

    """
    num_new, length = order.max_new_tokens, speaker.context_length
    num_left = limits.max_new_tokens if length is None else length - len(order.prompt_ids)
    if num_left < max(1, num_new or 0):
        wanted = "at least one" if num_new is None else num_new
        raise wrong(
            f"{order.model} reads and writes {length} tokens at most; the prompt has "
            f"{len(order.prompt_ids)}, and {wanted} more are wanted.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return min(num_left, limits.max_new_tokens) if num_new is None else num_new


def _param_of(error: MdelError) -> str | None:
    """Return the field because of which a speaker begins no sequence; None if it is another's."""
    from mdel_assets.generation.speaker import PromptError

    if isinstance(error, PromptError):
        return "prompt"
    return "domain" if isinstance(error, GenerationError) else None


def _broken() -> RefusedRequestError:
    """Return what a client is told of a fault of ours; the log has the rest."""
    message = "The model failed to write. The server's log says why."
    return RefusedRequestError(message, status=500, code="decoding_failed")
