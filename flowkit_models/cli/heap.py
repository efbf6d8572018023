"""Heap of a process: memory that was freed, kept for what comes next.

It needs no torch, so that a command can say so before anything is imported.
"""

import ctypes
import os

_SETTINGS = ((-4, 0), (-1, 2**31 - 1))
"""Of glibc: M_MMAP_MAX, no block is mapped by itself; M_TRIM_THRESHOLD, so many bytes stay free at the heap's end."""


def keep_freed_memory() -> bool:
    """Keeps the memory of freed tensors for the next ones, in this process, where glibc would give it back.

    What is given back comes again as new pages, which the kernel has to clear: with tiles of 384 LR pixels a fifth of
    `flowkit upscale`'s time on a CPU. Where the environment has settings of malloc (MALLOC_…, GLIBC_TUNABLES), these
    stay as they are.

    Returns:
        Whether it does: False with other C libraries, and where the environment says something else.
    """
    if os.name != "posix" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in _SETTINGS)
