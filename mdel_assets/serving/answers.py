"""The objects that OpenAI's clients read: completions, chats, and the events of their streams."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from mdel_assets.serving.orders import Piece, ScoredToken

DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass(frozen=True)
class Usage:
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int

    def content(self) -> dict[str, int]:
        """Return the object."""
        counts = dataclasses.asdict(self)
        return counts | {"total_tokens": self.prompt_tokens + self.completion_tokens}


@dataclasses.dataclass(frozen=True)
class Form:
    """What all objects of one answer have in common.

    ``token_text`` returns a token's text by its id. ``echoes`` are the prompts' texts where they
    are repeated, one a choice. ``tells_log_p``: with log-probabilities. ``fingerprint`` is known
    once the model has written.
    """

    id: str
    created: int
    model: str
    token_text: Callable[[int], str]
    echoes: tuple[str, ...] = ()
    tells_log_p: bool = False
    fingerprint: str | None = None

    def whole(self, choices: Sequence[Sequence[Piece]], usage: Usage) -> dict[str, Any]:
        """Return the answer to a request that does not stream: the pieces of each choice."""
        made = [self._choice(i, joined(pieces), is_first=True) for i, pieces in enumerate(choices)]
        return self._head() | {"choices": made, "usage": usage.content()}

    def events(self, pieces: Sequence[tuple[int, Piece]], *, begun: set[int]) -> bytes:
        """Return the events of a stream for pieces of several choices.

        ``begun`` holds the choices of which something was sent; those of ``pieces`` are added.
        """
        events = []
        for index, piece in pieces:
            is_first = index not in begun
            if is_first or piece.text or piece.tokens or piece.finish_reason:
                begun.add(index)
                events.append(self._chunk(index, piece, is_first=is_first))
        return b"".join(map(event, events))

    def last_event(self, usage: Usage) -> bytes:
        """Return the event that tells how many tokens there were."""
        return event(self._chunk_head() | {"choices": [], "usage": usage.content()})

    def _head(self) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk_head(self) -> dict[str, Any]:
        raise NotImplementedError

    def _choice(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        raise NotImplementedError

    def _chunk(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        raise NotImplementedError

    def _base(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class CompletionForm(Form):
    """Objects of ``/v1/completions``."""

    def _head(self) -> dict[str, Any]:
        return self._base("text_completion")

    _chunk_head = _head

    def _chunk(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        return self._head() | {"choices": [self._choice(index, piece, is_first=is_first)]}

    def _choice(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        echo = self.echoes[index] if self.echoes else ""
        tokens = list(piece.prompt) if is_first else []
        tokens += [dataclasses.replace(t, start=t.start + len(echo)) for t in piece.tokens]
        return {
            "index": index,
            "text": echo + piece.text if is_first else piece.text,
            "logprobs": self._logprobs(tokens) if self.tells_log_p else None,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        return {
            "tokens": [self.token_text(token.id) for token in tokens],
            "token_logprobs": [token.log_p for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.start for token in tokens],
        }

    def _top(self, token: ScoredToken) -> dict[str, float] | None:
        if token.log_p is None:
            return None
        # Tokens of the same text are told once, by the most probable of them.
        return {self.token_text(id_): log_p for id_, log_p in reversed(token.top)}


class ChatForm(Form):
    """Objects of ``/v1/chat/completions``."""

    def _head(self) -> dict[str, Any]:
        return self._base("chat.completion")

    def _chunk_head(self) -> dict[str, Any]:
        return self._base("chat.completion.chunk")

    def _choice(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return self._rest(index, piece) | {"message": message}

    def _chunk(self, index: int, piece: Piece, *, is_first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
        if piece.text or is_first:
            delta["content"] = piece.text
        return self._chunk_head() | {"choices": [self._rest(index, piece) | {"delta": delta}]}

    def _rest(self, index: int, piece: Piece) -> dict[str, Any]:
        content = {"content": [self._scored(token) for token in piece.tokens]}
        return {
            "index": index,
            "logprobs": content if self.tells_log_p else None,
            "finish_reason": piece.finish_reason,
        }

    def _scored(self, token: ScoredToken) -> dict[str, Any]:
        top = [self._named(id_, log_p) for id_, log_p in token.top]
        return self._named(token.id, token.log_p) | {"top_logprobs": top}

    def _named(self, id_: int, log_p: float | None) -> dict[str, Any]:
        text = self.token_text(id_)
        return {"token": text, "logprob": log_p, "bytes": list(text.encode("utf-8"))}


def event(content: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return all of one sequence as one piece."""
    return Piece(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        num_tokens=pieces[-1].num_tokens,
        finish_reason=pieces[-1].finish_reason,
        prompt=tuple(token for piece in pieces for token in piece.prompt),
    )
