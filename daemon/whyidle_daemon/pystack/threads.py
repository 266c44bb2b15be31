"""Which thread state belongs to which thread.

CPython writes the kernel's TID into the thread state since 3.11, as the thread's own PID namespace sees it.
Before, and where it is 0 (some distributions' main thread) or out of date (after a fork), there is the
address of the C library's own thread structure, which holds the TID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.memory import Fields, Read
from whyidle_daemon.pystack.objects import check
from whyidle_daemon.pystack.runtime import Interpreter

# struct pthread of glibc (x86-64, aarch64) and of musl; a value is believed only if it is the wanted TID.
_TID_PLACES = (0x2D0, 0xD0, 0x30)
_FIRST_PLACE = min(_TID_PLACES)
_TID = 4  # bytes
_MAX_INTERPRETERS = 256
_MAX_THREADS = 65536
_WALKS = 3


class ThreadState(NamedTuple):
    """One ``PyThreadState``: its address and what it says of itself. ``native`` is 0 before 3.11."""

    address: int
    interpreter: int
    thread: int
    native: int


class Threads:
    """The thread states of one process, walked again only when the list has changed.

    ``inside`` gives the TID that a thread has in its own PID namespace; it is asked whenever the list is
    walked for a thread, since the host's number may have become another thread's. Raises :class:`StackError`.
    """

    def __init__(self, read: Read, python: Interpreter, inside: Callable[[int], int] = int) -> None:
        at = python.layout
        self._read, self._at, self._inside = read, at, inside
        self._head = python.runtime + at.runtime_interpreters
        self._links = Fields((at.interp_next, "Q"), (at.interp_threads, "Q"))
        self._state = Fields(
            (at.thread_prev, "Q"),
            (at.thread_next, "Q"),
            (at.thread_interp, "Q"),
            (at.thread_id, "Q"),
            *([(at.thread_native, "Q")] if at.thread_native >= 0 else []),
        )
        self._known: dict[int, tuple[int, tuple[ThreadState, ...]]] = {}
        self._missing: tuple[tuple[int, ...], set[int]] = ((), set())

    def find(self, tid: int, main: bool) -> tuple[ThreadState, ...]:
        """Thread states of a TID, the innermost interpreter first.

        ``main`` says that it is the process's first thread. Raises ``no_thread`` or ``torn``.
        """
        newest = self._pointer(self._head)
        known = self._known.pop(tid, None)
        if known is not None and known[0] == newest and all(self._still(state) for state in known[1]):
            self._known[tid] = known
            return known[1]
        mark = self._mark(newest)
        if mark == self._missing[0] and tid in self._missing[1]:
            raise StackError("no_thread")
        found = self._search(self._inside(tid), main)
        if found:
            if len(self._known) >= _MAX_THREADS:
                self._known.clear()
            self._known[tid] = newest, found
            return found
        if mark != self._missing[0] or len(self._missing[1]) >= _MAX_THREADS:
            self._missing = (mark, set())
        self._missing[1].add(tid)
        raise StackError("no_thread")

    def all(self) -> list[ThreadState]:
        """Every thread state, of the newest interpreter and in it the newest thread first.

        Raises ``torn`` when threads come and go so fast that the list was never read in one piece.
        """
        detail = ""
        for _ in range(_WALKS):
            try:
                return list(self._walk())
            except StackError as error:
                if error.reason == "gone":
                    raise
                detail = str(error)
        raise StackError("torn", f"the list of threads: {detail}")

    def tids(self, state: ThreadState) -> list[int]:
        """TIDs that a state may stand for, the likeliest first, in the thread's own namespace."""
        found = [state.native] if state.native else []
        try:  # the C library with the largest structure has it whole
            memory = self._read(state.thread + _FIRST_PLACE, max(_TID_PLACES) + _TID - _FIRST_PLACE)
            pieces = [memory[place - _FIRST_PLACE :][:_TID] for place in _TID_PLACES]
        except StackError as error:
            if error.reason != "unreadable":  # gone, or enough was read
                raise
            pieces = list(self._readable(state.thread + place for place in _TID_PLACES))
        return found + [int.from_bytes(piece, "little") for piece in pieces]

    def _readable(self, places: Iterable[int]) -> Iterator[bytes]:
        for place in places:
            try:
                yield self._read(place, _TID)
            except StackError as error:
                if error.reason != "unreadable":
                    raise

    def _search(self, tid: int, main: bool) -> tuple[ThreadState, ...]:
        states = self.all()
        found = [state for state in states if state.native == tid]
        if not found:
            found = [state for state in states if tid in self.tids(state)]
        if not found and main and states and not states[-1].native:
            found = states[-1:]  # nothing names it, and the oldest state of all is nameless
        innermost: dict[int, ThreadState] = {}
        for state in found:
            innermost.setdefault(state.interpreter, state)
        if len(innermost) > _MAX_INTERPRETERS:
            raise StackError("torn", "a thread in too many interpreters")
        return tuple(innermost.values())

    def _still(self, state: ThreadState) -> bool:
        """Is it linked into its list, for the same thread? The memory of a dead one keeps its TID."""
        try:
            previous, _, interpreter, *names = self._state(self._read(state.address, self._state.size))
            if (interpreter, *names) != (state.interpreter, state.thread, state.native)[: 1 + len(names)]:
                return False
            threads = state.interpreter + self._at.interp_threads
            return self._pointer(previous + self._at.thread_next if previous else threads) == state.address
        except StackError as error:
            if error.reason == "gone":
                raise
            return False

    def _mark(self, interpreter: int) -> tuple[int, ...]:
        """Changes whenever a thread is added: the newest of each interpreter, and its names."""
        mark: list[int] = []
        while interpreter and len(mark) < 5 * _MAX_INTERPRETERS:
            check(interpreter)
            following, head = self._links(self._read(interpreter, self._links.size))
            mark += [interpreter, head]
            if head:
                check(head)
                mark += self._state(self._read(head, self._state.size))[3:]
            interpreter = following
        return tuple(mark)

    def _walk(self) -> Iterator[ThreadState]:
        interpreter = self._pointer(self._head)
        seen: set[int] = set()
        while interpreter:
            check(interpreter)
            following, address = self._links(self._read(interpreter, self._links.size))
            previous = 0
            while address:
                check(address)
                if address in seen or len(seen) >= _MAX_THREADS:
                    raise StackError("torn", "threads in a circle")
                seen.add(address)
                back, onward, owner, thread, *native = self._state(self._read(address, self._state.size))
                if back != previous or owner != interpreter:
                    raise StackError("torn", "threads come and go")
                yield ThreadState(address, interpreter, thread, native[0] if native else 0)
                previous, address = address, onward
            if interpreter in seen or len(seen) >= _MAX_THREADS:
                raise StackError("torn", "interpreters in a circle")
            seen.add(interpreter)
            interpreter = following

    def _pointer(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")
