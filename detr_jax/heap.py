"""How the C library keeps the memory of a program that trains on a CPU."""

import ctypes
import os
import resource
import sys

MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX = -4, -1, -8  # parameters of glibc's mallopt
MADV_HUGEPAGE = 14
HUGE_PAGE = 2 << 20  # bytes


def keep_memory() -> None:
    """Makes the process keep the memory that it frees, in large pages, where the C library is glibc.

    On a CPU, XLA allocates all temporary memory of a program anew in every call: a gigabyte or more. By default glibc
    gets and returns it page by page, which is a tenth of a training step; pages of 4 KB cost another tenth. Heaps of
    threads are returned whatever the threshold says, so there is one heap for all threads.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1)):
        libc.mallopt(parameter, value)
    _reserve_huge_pages(libc)


def _reserve_huge_pages(libc: ctypes.CDLL) -> None:
    """Reserves half of the memory as huge pages, then frees it: glibc keeps it for later allocations.

    Untouched pages take no memory. Where so much is refused, pages stay small.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)  # negative: no limit
    half = (memory if allowed < 0 else min(memory, allowed)) // 2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    if half > HUGE_PAGE and (block := libc.malloc(half)):
        libc.madvise(-(-block // HUGE_PAGE) * HUGE_PAGE, half - HUGE_PAGE, MADV_HUGEPAGE)
        libc.free(block)
