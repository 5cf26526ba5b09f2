"""What the HTTP side asks of the decoding side, and what it is told: plain values."""

import dataclasses
from collections.abc import Callable, Sequence

from mdel_assets.serving.refusals import RefusedRequestError


@dataclasses.dataclass(frozen=True)
class Order:
    """One sequence to be written after ``prompt_ids`` by the model or ensemble ``model``.

    ``max_new_tokens`` None is as many as the model and the limits allow. ``temperature`` 0 takes
    the most probable token each time. The text ends before the first of ``stops``. ``num_top``
    alternatives are told with each token; None tells no log-probabilities. ``tells_prompt`` asks
    for the log-probabilities of the prompt, too. ``domain`` is where the text is from, for
    ensembles that weigh their experts by that.
    """

    model: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    stops: tuple[str, ...] = ()
    num_top: int | None = None
    tells_prompt: bool = False
    domain: str | None = None


@dataclasses.dataclass(frozen=True)
class ScoredToken:
    """One token: its log-probability in nats, and those of the most probable tokens.

    ``start`` is the place of its first character in the written text. A token before which there is
    nothing has no log-probability.
    """

    id: int
    start: int
    log_p: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """What was added to one sequence: text and its tokens, and at its end why it ended.

    ``num_tokens`` have been written of the sequence so far. ``prompt`` holds the prompt's tokens,
    in the first piece, where the order asks for them. ``fingerprint`` is that of the model as it
    was loaded.
    """

    text: str
    tokens: tuple[ScoredToken, ...]
    num_tokens: int
    finish_reason: str | None = None
    prompt: tuple[ScoredToken, ...] = ()
    fingerprint: str = ""


News = Piece | RefusedRequestError


class Ticket:
    """One order's place in the decoding thread.

    `receive` is called with what is new, in the thread that the decoding thread's ``tell`` chooses.
    """

    def __init__(self, order: Order, *, receive: Callable[[News], None]) -> None:
        self.order = order
        self.receive = receive
        self.is_cancelled = False

    def cancel(self) -> None:
        """Let the decoding thread drop the sequence before its next step; safe anywhere."""
        self.is_cancelled = True


# Tells what is new of several orders at once.
Tell = Callable[[Sequence[tuple[Ticket, News]]], None]
