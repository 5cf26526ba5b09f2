"""Rolling windows: cut a document so that every token is scored exactly once.

The cut is that of lm-evaluation-harness's ``get_rolling_token_windows`` with one token of context.
The first window holds up to ``max_length`` tokens, after the prefix token. Every later full window
comes after the token before it. If the last window is shorter, it is moved left until it sees a
full ``max_length`` of context, and only its new tokens are scored. With a ``stride``, every later
window scores that many new tokens, after more context: this is more work, and the probabilities
are closer to what the model can do.
"""

import dataclasses
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Window:
    """One forward pass over part of a document.

    ``inputs`` are the T token ids fed in; ``targets`` the S <= T token ids scored, by the model's
    outputs at the last S positions. ``start`` is the first target's position in the document.
    """

    inputs: Sequence[int]
    targets: Sequence[int]
    start: int


def rolling_windows(
    tokens: Sequence[int], *, prefix: int, max_length: int, stride: int | None = None
) -> Iterator[Window]:
    """Yield the windows of one document; none for an empty one."""
    first = tokens[:max_length]
    if not first:
        return
    yield Window(inputs=[prefix, *first[:-1]], targets=first, start=0)
    done = len(first)
    while done < len(tokens):
        end = min(done + (stride or max_length), len(tokens))
        yield Window(
            inputs=tokens[end - max_length - 1 : end - 1], targets=tokens[done:end], start=done
        )
        done = end
