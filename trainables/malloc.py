"""How a process that trains on a CPU holds its memory."""

import contextlib
import ctypes

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
ANY_SIZE, NEVER = 2**30, -1


def keep_freed_memory() -> bool:
    """Have the C library's allocator keep what is freed, instead of giving it back to the system at once.

    A step frees its activations, and the next one asks for the same again; the system would clear every page of them
    anew each time, which is a quarter of a ResNet-18's step at batch 128. The process stays as large as it ever was.
    False where the C library is another than glibc: nothing is changed then.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(M_MMAP_THRESHOLD, ANY_SIZE) and mallopt(M_TRIM_THRESHOLD, NEVER))
    return False
