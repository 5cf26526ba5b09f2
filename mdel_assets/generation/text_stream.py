"""Text from tokens as they come: a character that spans several tokens comes out whole."""

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "�"
# Of a character of UTF-8 three bytes at most can be there without the last one.
_MAX_INCOMPLETE = 3
# Some tokenizers leave out a space at the beginning, so a few tokens before are decoded along.
_NUM_BEFORE = 4


class TextStream:
    """Turns the tokens that follow ``prompt`` into text, piece by piece.

    All pieces together are the text of all the tokens: nothing is shown twice or taken back.
    """

    def __init__(self, tokenizer: Any, *, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._num_shown = 0
        self._begin_after(list(prompt))

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; empty where a character is incomplete."""
        self._tokens.append(token)
        text = self._decoded()
        num_whole = len(text.rstrip(_REPLACEMENT))
        piece = self._show(text, max(num_whole, len(text) - _MAX_INCOMPLETE))
        if num_whole == len(text):
            self._begin_after(self._tokens)
        return piece

    def end(self) -> str:
        """Return what was held back; what is no character shows as U+FFFD."""
        text = self._decoded()
        return self._show(text, len(text))

    def _show(self, text: str, end: int) -> str:
        piece = text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return piece

    def _begin_after(self, tokens: list[int]) -> None:
        self._tokens = tokens[-_NUM_BEFORE:]
        self._num_shown = len(self._decoded())

    def _decoded(self) -> str:
        found: str = self._tokenizer.decode(
            self._tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return found
