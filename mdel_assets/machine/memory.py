"""Return memory to the system after heavy work."""

import ctypes
import gc
import sys

# Less than this is not worth a full collection: with the libraries loaded it takes a third of a
# second, more than the work on a small model.
_WORTH_COLLECTING_BYTES = 64 << 20
_held_before: int | None = None


def collect_garbage() -> bool:
    """Collect garbage if this process has grown, and return whether it did.

    Models and their optimizers have reference cycles, which Python would collect much later.
    """
    global _held_before
    if _held_before is not None and _held() - _held_before < _WORTH_COLLECTING_BYTES:
        return False
    gc.collect()
    _held_before = _held()
    return True


def _held() -> int:
    """Return the bytes that this process holds; a GPU's memory counts as very many."""
    import psutil

    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized() and torch.cuda.memory_allocated():
        return sys.maxsize
    return int(psutil.Process().memory_info().rss)


def give_memory_back() -> None:
    """Collect garbage, and return memory that allocators hold to the system, if that is much.

    An allocator keeps small freed pieces for later. Otherwise a process that continues with other
    work would keep its peak memory.
    """
    global _held_before
    if not collect_garbage():
        return
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    _held_before = _held()
