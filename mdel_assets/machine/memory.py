"""Return memory to the system after heavy work."""

import ctypes
import gc
import sys

# So many modules make a library.
_A_LIBRARY = 50
_num_spared = 0


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


def spare_libraries() -> None:
    """Leave all objects of now out of later collections, if libraries were loaded since the last.

    A collection goes through every object: with the libraries of a training, a third of a second,
    which is more than the work on a small model. Call it where no model is held: what is in a
    reference cycle at this moment will not be collected any more.
    """
    global _num_spared
    if len(sys.modules) >= _num_spared + _A_LIBRARY:
        gc.collect()
        gc.freeze()
        _num_spared = len(sys.modules)
