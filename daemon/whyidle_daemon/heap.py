"""Keeping what the C library holds near to what is in use: a daemon runs for months.

glibc gives every thread a heap of its own and, once a large block was freed, keeps such blocks in it.
Recordings have a thread each and come and go, so the resident memory crept up by a tenth in an hour while
what was in use stayed the same. So there is one heap, and what is large stays outside: by glibc's own measure
of large (128 KiB) the four tables of a zlib compressor and the room for a read of 64 KiB would be inside, and
what is small and stays would take up their places one by one: the heap grew by a sixth in a quarter of an
hour. Other C libraries have none of this, and need none of it.

Python's own allocator of small objects keeps every page that a peak once used, and peaks are rare: it
crept up by 2 % in an hour. The service has the C library's in its place (``PYTHONMALLOC=malloc`` in its
unit), 0.8 MB more.

Python's table of interned strings never uses a place twice before it is made anew, and what is read from
``/proc`` interns many (each part of a path). Once they had filled it, after hours, it was made anew with
twice as many places, 0.53 MB more, as more than a third of the old ones were in use; the next one is of the
same size. So the service fills it before its first look, and what memory does afterwards says something.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from ctypes import c_size_t
from typing import Final

from whyidle_daemon.c_library import c_library

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGE_BYTES: Final = 32 << 10
_TRIM_BYTES: Final = 128 << 10  # glibc's own; setting it keeps it from growing
_NAMES: Final = 50_000  # more than the table has places, 20 ms


def keep_small() -> None:
    """One heap for all threads, and large blocks outside it. To be called before threads start."""
    with contextlib.suppress(AttributeError):
        mallopt = c_library().mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)


def fill_names() -> None:
    """Python's table of interned strings gets the size that it has after hours. For who runs that long."""
    for number in range(_NAMES):
        sys.intern(f"name {number}")  # and at once nobody refers to it


def started() -> None:
    """What is there stays to the end: the collector of garbage need not look at it again."""
    give_back()
    gc.freeze()


def give_back() -> None:
    """What nobody refers to goes, and pages of the heap in which nothing is left: some milliseconds.

    By itself the collector looks at everything only when a quarter more is there than the last time.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):
        c_library().malloc_trim(c_size_t(0))
