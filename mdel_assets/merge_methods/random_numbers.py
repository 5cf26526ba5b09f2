"""Random numbers that belong to a place: an element of a tensor of a model, under a seed.

A counter-based generator (Philox) is set to the place, so the numbers do not depend on order,
pieces, threads or other draws.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

# Numbers in a block of the generator's counter.
_BLOCK = 1 << 14
NUM_BITS = 24


def random_integers(
    first: int, count: int, *, seed: int, model: str, tensor: str
) -> NDArray[np.uint32]:
    """Return the numbers, uniform from 0 to 2**24 - 1, of elements ``first`` and following."""
    digest = hashlib.sha256("\0".join((str(seed), model, tensor)).encode()).digest()
    key = np.frombuffer(digest[:16], "<u8")
    found = np.empty(count, np.uint32)
    for block in range(first // _BLOCK, (first + count - 1) // _BLOCK + 1):
        raw = np.random.Philox(key=key, counter=[0, block, 0, 0]).random_raw(_BLOCK // 2)
        numbers = raw.astype("<u8", copy=False).view("<u4") >> np.uint32(32 - NUM_BITS)
        start = block * _BLOCK
        own = numbers[max(0, first - start) : first + count - start]
        place = max(0, start - first)
        found[place : place + len(own)] = own
    return found
