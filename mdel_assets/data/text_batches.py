"""Group texts into batches for a tokenizer.

A tokenizer takes some sixty bytes of memory per character, and no signal is handled during a call.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

MAX_CHARACTERS = 1 << 20
_MAX_TEXTS = 256

_Item = TypeVar("_Item")


def text_batches(
    items: Iterable[_Item],
    *,
    length_of: Callable[[_Item], int],
    enough: Callable[[], int] = lambda: MAX_CHARACTERS,
) -> Iterator[list[_Item]]:
    """Yield ``items``, each of ``length_of`` characters, in their order.

    A batch ends with the text that reaches ``enough`` characters, which is asked anew each time.
    """
    batch: list[_Item] = []
    held = 0
    for item in items:
        batch.append(item)
        held += length_of(item)
        if held >= min(MAX_CHARACTERS, enough()) or len(batch) == _MAX_TEXTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
