"""The frames of one thread state, innermost first.

Since 3.11 most frames of a thread lie next to one another in blocks that the thread owns, older ones at lower
addresses, so one read of a frame's page up to it usually brings its callers too. Frames of generators lie in
the generators, and before 3.11 every frame is an object of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.layout import Layout
from whyidle_daemon.pystack.memory import Fields, Read
from whyidle_daemon.pystack.objects import Code, Objects, check
from whyidle_daemon.pystack.runtime import Interpreter

_PAGE = 4096  # or a multiple
_OWNED_BY_C = (
    3  # since 3.12 the frames from here on stand for C code (in 3.14 the interpreter's own: 3, C: 4)
)
_MAX_SHIMS = 2  # for each frame, more frames of C code than that are no stack
_TAG = 7  # 3.14 marks deferred references in the low bits of the pointer to the code


class Frame(NamedTuple):
    """One call. ``function`` is the qualified name since 3.11, the plain one before.

    ``line`` is ``None`` where the compiler gave the instruction none. Names are the target's text as it is,
    control characters included.
    """

    function: str
    file: str
    line: int | None


class Walker:
    """Reads frames. Raises :class:`StackError`."""

    def __init__(self, read: Read, python: Interpreter, objects: Objects) -> None:
        at = python.layout
        self._read, self._at, self._objects = read, at, objects
        self._frame_type = python.types.frame
        self._by_pointer = at.code_bytecode >= 0  # 3.11 on: where it is; before: how far it is
        self._unit = 2 if python.version == (3, 10) else 1  # 3.10 counts instructions, 3.8 and 3.9 bytes
        if self._by_pointer:
            self._frame = Fields(
                (at.frame_previous, "Q"), (at.frame_code, "Q"), (at.frame_instr, "Q"), (at.frame_owner, "B")
            )
        else:
            self._frame = Fields(
                (at.frame_previous, "Q"), (at.frame_code, "Q"), (at.frame_instr, "i"), (at.object_type, "Q")
            )

    def top(self, thread_state: int) -> int:
        """Address of the innermost frame, 0 when there is none."""
        address = self._pointer(thread_state + self._at.thread_frame)
        if self._at.cframe_frame >= 0 and address:
            check(address)
            address = self._pointer(address + self._at.cframe_frame)
        return address

    def identity(self, frame: int) -> bytes:
        """What changes when the thread moves: the fields of its innermost frame."""
        return self._read(frame, self._frame.size)

    def walk(self, frame: int, limit: int) -> tuple[list[Frame], bool]:
        """At most ``limit`` frames from ``frame`` outward, and whether these are all."""
        frames: list[Frame] = []
        seen: set[int] = set()
        codes: dict[int, Code] = {}
        size, start, block = self._frame.size, 0, b""
        while frame:
            if len(frames) >= limit:
                return frames, False
            check(frame)
            if frame in seen or len(seen) > limit * (1 + _MAX_SHIMS):
                raise StackError("torn", "frames in a circle")
            seen.add(frame)
            if not start <= frame <= start + len(block) - size:
                start, block = self._block(frame, size)
            previous, code, instruction, owner = self._frame(block, frame - start)
            frame = previous
            if self._by_pointer:
                if owner >= _OWNED_BY_C:
                    continue
                address = code & ~_TAG
            elif owner == self._frame_type:
                address = code
            else:
                raise StackError("torn", "not a frame")
            if address not in codes:
                codes[address] = self._objects.code(address)
            frames.append(self._read_frame(codes[address], address, instruction))
        return frames, True

    def _block(self, frame: int, size: int) -> tuple[int, bytes]:
        """Memory that ends with a frame, and begins at an address.

        It begins where the frame's page does: the page before may be no memory, and to find that out for
        each frame of the first page of a block costs more than all else.
        """
        start = frame & -_PAGE if self._by_pointer else frame
        return start, self._read(start, frame + size - start)

    def _read_frame(self, code: Code, address: int, instruction: int) -> Frame:
        """``instruction`` is a pointer since 3.11, and a number before."""
        if self._by_pointer:
            offset = instruction_offset(self._at, code, address, instruction)
        elif -1 <= instruction < 1 << 26:
            offset = instruction * self._unit
        else:
            raise StackError("torn", "an instruction outside its function")
        return Frame(code.function, code.file, self._objects.line(code, offset))

    def _pointer(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")


def instruction_offset(at: Layout, code: Code, address: int, instruction: int) -> int:
    """Bytes from a code object's first instruction to a pointer into it (3.11 on). Raises ``torn``."""
    offset = instruction - address - at.code_bytecode
    # One before the first instruction is a frame that has not begun.
    if not -2 <= offset < code.units * 2 or offset & 1:
        raise StackError("torn", "an instruction outside its function")
    return offset
