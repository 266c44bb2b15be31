"""Memory of another process, read without stopping it.

``/proc/PID/mem`` is opened once and kept: the descriptor belongs to the memory image and not to the number,
so neither an exec nor a reused PID can make it read from something else. One ``pread`` costs about 1 µs.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from whyidle_daemon.pystack.errors import StackError

Read = Callable[[int, int], bytes]
"""``read(address, size)`` returns exactly ``size`` bytes, or raises :class:`StackError`."""

TOP = 1 << 56  # user space ends here with five levels of page tables, the most that Linux has
MAX_READ = 1 << 22


class Memory:
    """The memory of one process image.

    Raises :class:`StackError`: ``gone``, ``unreadable``, or ``torn`` for an address that cannot be and after
    more reads than were allowed.
    """

    def __init__(self, pid: int, root: Path = Path("/proc")) -> None:
        self._left = 1 << 62
        try:
            self._file = os.open(root / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise StackError("gone", str(error)) from None
        except OSError as error:
            raise StackError("unreadable", str(error)) from None

    def allow(self, reads: int) -> None:
        """From now on so many, where a large one counts as one more for each 8 KiB: these take as long."""
        self._left = reads

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        self._left -= 1 + (size >> 13)
        if self._left < 0:
            raise StackError("torn", "too many reads")
        if not 0 < address < TOP or not 0 < size <= MAX_READ:
            raise StackError("torn", "a pointer out of range")
        try:
            data = os.pread(self._file, size, address)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EFAULT):
                raise StackError("unreadable", f"no memory at {address:#x}") from None
            raise StackError("gone", str(error)) from None
        if len(data) == size:
            return data
        if data:
            raise StackError("unreadable", f"memory ends before {address + size:#x}")
        raise StackError("gone", "the image ended")  # an image without users reads as an empty file

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Metered:
    """A ``Read`` that raises ``torn`` after so many reads: what a target holds may be without an end."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._left = 0
        self.kept: list[tuple[int, bytes]] | None = None  # where given, what is read and where

    def allow(self, reads: int) -> None:
        """From now on so many."""
        self._left = reads

    def __call__(self, address: int, size: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise StackError("torn", "too many reads")
        data = self._read(address, size)
        if self.kept is not None:
            self.kept.append((address, data))
        return data


class Fields:
    """Some fields of a C structure, taken out with one ``unpack``.

    Each is ``(offset in bytes, struct letter)``; calling gives their values in the order given. Offsets may
    be a target's word: raises :class:`StackError` ``unsupported`` where they overlap.
    """

    def __init__(self, *fields: tuple[int, str]) -> None:
        order = sorted(range(len(fields)), key=lambda i: fields[i][0])
        form, position = "<", 0
        for index in order:
            offset, letter = fields[index]
            if offset < position:
                raise StackError("unsupported", "fields overlap")
            form += f"{offset - position}x{letter}"
            position = offset + struct.calcsize("<" + letter)
        self._struct = struct.Struct(form)
        self.size = position
        places = [order.index(i) for i in range(len(fields))]
        self._pick: Callable[[tuple[Any, ...]], Any] = itemgetter(*places)

    def __call__(self, data: bytes, position: int = 0) -> Any:
        """A tuple of values (the value itself when there is one field)."""
        return self._pick(self._struct.unpack_from(data, position))
