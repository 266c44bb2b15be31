"""Has memory of another process changed since it was read? Thousands of pieces with one system call.

A ``pread`` of ``/proc/PID/mem`` costs 1.4 µs in Python, whatever its size; ``process_vm_readv`` takes the
same privilege and gathers a thousand pieces in one call, 0.4 µs each. It goes by PID: what another image has
at the same place is not what was read, so it is found to have changed.
"""

from __future__ import annotations

import ctypes as c
import functools
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from whyidle_daemon.c_library import c_library

Part = tuple[int, bytes]
"""A piece of memory: where, and what was there."""

_IOVEC: Final = 16  # bytes of a struct iovec
_MAX_VECTORS: Final = 1024  # UIO_MAXIOV
_MAX_BYTES: Final = 1 << 20  # of one call
_LEAST_ROOM: Final = 1 << 14


class _Vector(c.Structure):
    _fields_ = (("base", c.c_void_p), ("size", c.c_size_t))


class Group(NamedTuple):
    """Pieces of memory that change together, or not: an array of ``struct iovec``, and what was there."""

    vectors: bytes
    content: bytes


def group_of(parts: Sequence[Part]) -> Group:
    """The group of these parts."""
    words = [word for at, then in parts for word in (at, len(then))]
    return Group(struct.pack(f"={len(words)}Q", *words), b"".join(then for _, then in parts))


def unchanged(pid: int, groups: Sequence[Group]) -> list[bool]:
    """For each group: is all of it there as it was? False also for what cannot be told."""
    found: list[bool] = []
    for some in _calls(groups):
        then = b"".join(group.content for group in some)
        now = _read(pid, b"".join(group.vectors for group in some), len(then))
        if now == then:
            found += [True] * len(some)
            continue
        at = 0
        for group in some:
            end = at + len(group.content)
            found.append(now[at:end] == group.content)
            at = end
    return found


def _calls(groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
    """As many groups at a time as one call takes."""
    first = vectors = size = 0
    for index, group in enumerate(groups):
        more, content = len(group.vectors) // _IOVEC, len(group.content)
        if index > first and (vectors + more > _MAX_VECTORS or size + content > _MAX_BYTES):
            yield groups[first:index]
            first, vectors, size = index, 0, 0
        vectors += more
        size += content
    if groups:
        yield groups[first:]


def _read(pid: int, vectors: bytes, size: int) -> bytes:
    """What is there now, up to the first place that cannot be read."""
    count = len(vectors) // _IOVEC
    if count > _MAX_VECTORS or size > _MAX_BYTES:
        return b""
    room = c.addressof(_room(max(_LEAST_ROOM, 1 << (size - 1).bit_length())))
    local = _Vector(room, size)
    try:
        read = _readv()(pid, c.byref(local), 1, vectors, count, 0)
    except AttributeError:  # a C library without it
        return b""
    return c.string_at(room, read) if read > 0 else b""


@functools.lru_cache(maxsize=1)
def _room(size: int) -> c.Array[c.c_char]:
    """Kept, because a type for each size is more work than the reading."""
    return c.create_string_buffer(size)


@functools.cache
def _readv() -> Any:
    function = c_library().process_vm_readv
    function.restype = c.c_ssize_t
    function.argtypes = (c.c_int, c.c_void_p, c.c_ulong, c.c_char_p, c.c_ulong, c.c_ulong)
    return function
