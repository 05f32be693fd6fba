"""glibc's allocator, told to keep what training frees."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Stops glibc from returning freed tensors to the kernel; does nothing elsewhere than on Linux with glibc.

    Each training step frees and takes the same large blocks. Giving them back costs a page fault for every 4 KiB of
    the next step; keeping them costs about a tenth more memory. docs/benchmarks.md has both times.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
