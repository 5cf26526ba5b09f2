"""Settings of the process while tensors are streamed."""

import contextlib
import ctypes
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@contextlib.contextmanager
def set_up_for_streaming() -> Iterator[None]:
    """Let torch use one thread per operation, and let glibc keep freed memory.

    The threads of a merge work on different tensors. By default, glibc returns a piece's memory to
    the system as soon as it is free, and getting it back takes half of the time. The thresholds are
    those that glibc itself reaches in a process that frees blocks of 32 MiB.
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
