"""Has memory of another process changed since it was read? Thousands of pieces with one system call.

A ``pread`` of ``/proc/PID/mem`` costs 1.4 µs in Python, whatever its size; ``process_vm_readv`` takes the
same privilege and gathers a thousand pieces in one call, 0.4 µs each. It goes by PID: what another image has
at the same place is not what was read, so it is found to have changed.
"""

from __future__ import annotations

import ctypes as c
import functools
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from whyidle_daemon.c_library import c_library

Part = tuple[int, bytes]
"""A piece of memory: where, and what was there."""

_IOVEC: Final = 16  # bytes of a struct iovec
_MAX_VECTORS: Final = 1024  # UIO_MAXIOV
_MAX_BYTES: Final = 1 << 20  # of one call
MAX_KEPT: Final = 4096
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


class Remembered(Protocol):
    """Something that was read from ``memory``, and is the same while that is."""

    @property
    def memory(self) -> Group: ...


T = TypeVar("T", bound=Remembered)


class Kept(Generic[T]):
    """What was read, by where it is, from one reading to the next.

    ``before``: where there was something in the reading before, whether or not it is still the same.
    """

    def __init__(self) -> None:
        self.before: Collection[int] = ()
        self._same: dict[int, T] = {}
        self._now: dict[int, T] = {}

    def get(self, at: int) -> T | None:
        """What is known to be there as it was read, in this reading or before."""
        return self._same.get(at)

    def keep(self, at: int, thing: T) -> None:
        """It was read, or is the same, in this reading."""
        self._same[at] = thing
        if len(self._now) < MAX_KEPT or at in self._now:
            self._now[at] = thing

    def begin(self, same: Iterator[bool]) -> None:
        """Begin a reading, given for each thing whether its memory is unchanged."""
        self.before = self._now.keys()
        self._same = {at: thing for at, thing in self._now.items() if next(same)}
        self._now = {}

    def distrust(self) -> None:
        """Begin a reading in which nothing of before counts, but stays for a later one."""
        self.before = self._now.keys()
        self._same = {}

    def groups(self) -> list[Group]:
        """Of what was read, in the order in which :meth:`begin` wants to be told."""
        return [thing.memory for thing in self._now.values()]


def begin(pid: int | None, kept: Sequence[Kept[Any]]) -> None:
    """Begin a reading of what is kept; without ``pid`` one that takes nothing for unchanged."""
    if pid is None:
        for each in kept:
            each.distrust()
        return
    same = iter(unchanged(pid, [group for each in kept for group in each.groups()]))
    for each in kept:
        each.begin(same)


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
