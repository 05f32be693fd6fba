"""glibc's allocator, told to keep what training and inference free; elsewhere than on Linux with glibc nothing is done.

Each training step and each window frees and takes the same large blocks. Giving them back costs a page fault for every
4 KiB of the next one, up to half of all the time; docs/benchmarks.md has the numbers.
"""

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> None:
    """Stops glibc from returning freed tensors to the kernel, from now on and in the whole process."""
    mallopt = _from_glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Returns what was kept and is free now to the kernel, once."""
    malloc_trim = _from_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _from_glibc(name: str) -> Any:
    """Returns a function of the C library; None where it has none of this name, as musl does."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
