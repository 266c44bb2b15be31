"""Coroutines in another process: the frames of those that await one another, read from outside.

A suspended coroutine's topmost value is what it awaits, since 3.15 the one below. CPython 3.11 to 3.15.
"""

from __future__ import annotations

from whyidle_daemon.pystack.awaiting import Point
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.memory import Fields, Read
from whyidle_daemon.pystack.objects import Objects, check
from whyidle_daemon.pystack.recheck import Part
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.walk import Frame, instruction_offset

_MAX_CHAIN = 64
_MAX_KEPT = 256  # words of a coroutine's frame
_MAX_WHOLE = 1024  # bytes of a coroutine with its frame, to be kept as one
_FINISHED = 1  # cr_frame_state: less than 0 while suspended, 0 while it runs; since 3.15 all of it is more
_RUNS_SINCE_3_15 = 4  # FRAME_EXECUTING, Include/internal/pycore_frame.h
_COROUTINES = ("PyCoro_Type", "PyGen_Type", "PyAsyncGen_Type")
# Their types are private to a C file, so they are known by name.
_WRAPPERS = {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}
_WRAPPED = 16  # each of them has the generator as its first field after the object's head


class Coroutines:
    """Raises :class:`StackError`."""

    def __init__(self, read: Read, python: Interpreter, heap: Heap, objects: Objects) -> None:
        self._read, self._python, self._heap, self._objects = read, python, heap, objects
        at, inner = python.layout, heap.at
        self._by_pointer = python.version >= (3, 14)  # to the top of the stack; before: so many words
        later = python.version >= (3, 15)
        self._runs = _RUNS_SINCE_3_15 if later else 0
        self._awaited = slice(-16, -8) if later else slice(-8, None)  # a place for an index is on top
        frame = inner.coroutine_frame
        self._coroutine = Fields(
            (at.object_type, "Q"),
            (inner.coroutine_state, "b"),
            (frame + at.frame_code, "Q"),
            (frame + at.frame_instr, "Q"),
            (frame + inner.frame_stack_top, "Q" if self._by_pointer else "i"),
        )
        types = heap.types
        self._coroutines = {types[name] for name in _COROUTINES if name in types}
        self._wrappers: dict[int, bool] = {}

    def points(self, coroutine: int, parts: list[Part]) -> tuple[list[Point], bool, int]:
        """The frames from a coroutine inward, whether the innermost runs, and else what it awaits.

        ``parts`` gets the coroutines as they were read.
        """
        points: list[Point] = []
        seen: set[int] = set()
        while coroutine and len(seen) < _MAX_CHAIN:
            if coroutine in seen:
                raise StackError("torn", "coroutines in a circle")
            seen.add(coroutine)
            kind_of = self._heap.type_of(coroutine)
            if kind_of not in self._coroutines:
                if not self._is_wrapper(kind_of):
                    return points, False, coroutine  # a future, or whatever else can be awaited
                inner = self._read(coroutine + _WRAPPED, 8)
                parts.append((coroutine + _WRAPPED, inner))
                coroutine = int.from_bytes(inner, "little")
                continue
            head = self._read(coroutine, self._coroutine.size)
            _, state, address, instruction, top = self._coroutine(head)
            state -= self._runs
            if state >= _FINISHED:
                break
            check(address)
            code = self._objects.code(address)
            offset = instruction_offset(self._python.layout, code, address, instruction)
            local = coroutine + self._heap.at.coroutine_frame + self._heap.at.frame_locals
            frame = Frame(code.function, code.file, self._objects.line(code, offset))
            if state == 0:
                points.append(Point(frame, local, 0))
                return points, True, 0
            if self._by_pointer:
                top = (top - local) // 8
            if not 0 < top < 1 << 16:
                points.append(Point(frame, local, 0))
                break
            points.append(Point(frame, local, top))
            kept = min(top, _MAX_KEPT)
            tail = local + 8 * (top - kept)
            rest = self._read(tail, 8 * kept)
            parts += self._together((coroutine, head), (tail, rest))
            coroutine = int.from_bytes(rest[self._awaited], "little") & ~7
        return points, False, 0

    def _together(self, head: Part, rest: Part) -> list[Part]:
        """Both as one piece, if that is as they were read: it is cheaper to read again."""
        size = rest[0] + len(rest[1]) - head[0]
        if size <= _MAX_WHOLE:
            whole = self._read(head[0], size)
            if whole.startswith(head[1]) and whole.endswith(rest[1]):
                return [(head[0], whole)]
        return [head, rest]

    def _is_wrapper(self, kind_of: int) -> bool:
        if kind_of not in self._wrappers:
            if len(self._wrappers) > _MAX_CHAIN:
                self._wrappers.clear()
            self._wrappers[kind_of] = self._heap.type_name(kind_of) in _WRAPPERS
        return self._wrappers[kind_of]
