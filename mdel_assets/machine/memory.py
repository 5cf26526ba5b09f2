"""Giving memory back to the system, once a piece of heavy work is done."""

import ctypes
import gc
import sys


def give_memory_back() -> None:
    """Free what nothing refers to any more, and return to the system what allocators keep of it.

    Models and their optimizers refer to themselves in circles, and an allocator keeps what is freed
    in small pieces for later. A process that goes on with other work would hold its highest peak.
    """
    gc.collect()
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
