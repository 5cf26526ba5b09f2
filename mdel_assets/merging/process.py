"""How the process is set up while tensors stream through it."""

import contextlib
import ctypes
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@contextlib.contextmanager
def set_up_for_streaming() -> Iterator[None]:
    """Let torch use one thread for an operation, and let freed memory be used again.

    The threads of a merge work on different tensors. Without the second, glibc returns a piece's
    memory to the system as soon as it is free, and getting it back takes half of the time. The
    thresholds are those that glibc comes to by itself in a process that frees blocks of 32 MiB.
    """
    import torch

    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_TRIM_THRESHOLD, 64 << 20)
        set_option(_M_MMAP_THRESHOLD, 32 << 20)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
