"""One sequence while it is decoded: its tokens become pieces of text with log-probabilities."""

from typing import TYPE_CHECKING

from mdel_assets.serving.growing_text import GrowingText
from mdel_assets.serving.orders import Piece, ScoredToken, Ticket

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker

# Shapes in names: V vocabulary.


class RunningSequence:
    """A ticket's sequence of one speaker, from its prompt to its last token.

    Memory for ``num_tokens`` is set aside for it. Once `is_ready`, `put_next` writes one
    token, which is then the `token` of the speaker's next step unless the sequence `is_over`.
    """

    def __init__(
        self,
        ticket: Ticket,
        speaker: "Speaker",
        *,
        max_new_tokens: int,
        num_tokens: int,
        waits_since: float,
    ) -> None:
        from mdel_assets.generation.sampling import Sampler
        from mdel_assets.generation.text_stream import TextStream

        order = ticket.order
        self.ticket = ticket
        self.speaker = speaker
        self.num_tokens = num_tokens
        self.waits_since = waits_since
        self.num_written = 0
        self._max_new_tokens = max_new_tokens
        self.token = -1
        self.is_over = False
        prompt = list(order.prompt_ids)
        num_top = order.num_top if order.tells_prompt else None
        self.sequence = speaker.begin(prompt, domain=order.domain, num_top=num_top)
        self._sampler = Sampler(temperature=order.temperature, top_p=order.top_p, seed=order.seed)
        stream = TextStream(speaker.tokenizer, prompt=prompt)
        self._text = GrowingText(stream.add, stream.end, stops=order.stops)

    @property
    def is_ready(self) -> bool:
        """Whether all of the prompt is read."""
        return self.sequence.is_ready

    def put_next(self) -> Piece:
        """Write one token, or end where there is none to write; return what is new."""
        prompt = () if self.num_written else self._scored_prompt()
        if self.num_written == self._max_new_tokens or not self.sequence.has_room:
            text, tokens = self._text.end()
            return self._piece(text, tokens, reason="length", prompt=prompt)
        scored = self._choose()
        self.num_written += 1
        if self.token in self.speaker.end_ids:
            text, tokens = self._text.end(token=scored)
            return self._piece(text, tokens, reason="stop", prompt=prompt)
        text, tokens = self._text.put(scored)
        reason = None
        if self.num_written == self._max_new_tokens and not self._text.is_stopped:
            rest, last = self._text.end()
            text, tokens, reason = text + rest, tokens + last, "length"
        if self._text.is_stopped:
            reason = "stop"
        return self._piece(text, tokens, reason=reason, prompt=prompt)

    def _piece(
        self,
        text: str,
        tokens: tuple[ScoredToken, ...],
        *,
        reason: str | None,
        prompt: tuple[ScoredToken, ...],
    ) -> Piece:
        self.is_over = reason is not None
        return Piece(text, tokens, self.num_written, reason, prompt, self.speaker.fingerprint)

    def _choose(self) -> ScoredToken:
        """Choose the next token, and tell its log-probability where that is asked for."""
        log_p_V = self.sequence.log_probabilities_V
        self.token = self._sampler.choose(log_p_V)
        num_top = self.ticket.order.num_top
        if num_top is None:
            return ScoredToken(self.token, start=0)
        best, ids = log_p_V.topk(min(num_top, len(log_p_V)))
        top = tuple(zip(ids.tolist(), best.tolist(), strict=True))
        return ScoredToken(self.token, start=0, log_p=float(log_p_V[self.token]), top=top)

    def _scored_prompt(self) -> tuple[ScoredToken, ...]:
        """Return the prompt's tokens with their scores, where the order asks for them."""
        from mdel_assets.generation.text_stream import TextStream

        found, start = [], 0
        stream = TextStream(self.speaker.tokenizer)
        for score in self.sequence.prompt_scores or ():
            found.append(ScoredToken(score.token, start, score.log_probability, tuple(score.top)))
            start += len(stream.add(score.token))
        return tuple(found)
