"""The C library that this process runs on."""

from __future__ import annotations

import ctypes
import functools


@functools.cache
def c_library() -> ctypes.CDLL:
    """One handle: each new one would bring a class of its own, which refers to itself."""
    return ctypes.CDLL(None)
