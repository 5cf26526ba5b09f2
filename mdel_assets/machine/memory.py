"""Return memory to the system after heavy work."""

import ctypes
import gc
import sys


def give_memory_back() -> None:
    """Collect garbage, and return memory that allocators hold to the system.

    Models and their optimizers have reference cycles, and an allocator keeps small freed pieces for
    later. Otherwise a process that continues with other work would keep its peak memory.
    """
    gc.collect()
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
