"""Processes that are files: a /proc whose ``mem`` is whatever a test wants of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from whyidle_daemon.elf import _gnu_hash
from whyidle_daemon.pystack.layout import COOKIE, Layout, _names
from whyidle_daemon.pystack.tables import TABLES

PID = 1 << 22  # more than the kernel gives
PAGE = 4096


class FakeProcess:
    """One process of a fake /proc. Memory is empty up to ``size`` bytes, unreadable after."""

    def __init__(self, root: Path, pid: int = PID, size: int = 1 << 28) -> None:
        self.folder = root / str(pid)
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "mem").open("wb") as file:
            file.truncate(size)
        self.thread(pid, pid)

    def write(self, address: int, data: bytes) -> None:
        with (self.folder / "mem").open("r+b") as file:
            file.seek(address)
            file.write(data)

    def map(self, address: int, data: bytes, path: str, inode: int = 7) -> None:
        """A file, mapped as a whole."""
        self.write(address, data)
        line = f"{address:x}-{address + len(data):x} r-xp 00000000 08:01 {inode} {path}\n"
        (self.folder / "maps").write_text(line)

    def user(self, *numbers: int) -> None:
        (self.folder / "status").write_text("Uid:\t" + "\t".join(map(str, numbers)) + "\n")

    def thread(self, tid: int, *inside: int) -> None:
        """A thread, and its numbers from the outermost PID namespace inward."""
        task = self.folder / "task" / str(tid)
        task.mkdir(parents=True, exist_ok=True)
        (task / "status").write_text("Name:\tx\nNSpid:\t" + "\t".join(map(str, inside)) + "\n")


def described(version: tuple[int, int], **changed: int) -> bytes:
    """The debug offsets of a runtime whose fields lie one after the other, but for those given."""
    names = _names(version)
    at: dict[str, int] = {}
    for name in names:
        group = name.partition(".")[0]
        at[name] = 8 * sum(known.startswith(group + ".") for known in at)
    at |= changed
    values = (at[name] & (1 << 64) - 1 for name in names)
    number = version[0] << 24 | version[1] << 16
    return struct.pack(f"<8s{2 + len(names)}Q", COOKIE, number, 0, *values).ljust(1024, b"\0")


def library(symbols: dict[str, int]) -> bytes:
    """An ELF file with these dynamic symbols: the headers in its first page, the symbols in the second."""
    strings, entries, chain = b"\0", bytes(24), b""
    for number, (name, value) in enumerate(symbols.items(), 1):
        entries += struct.pack("<IBBHQQ", len(strings), 1, 0, 1, value, 8)
        strings += name.encode() + b"\0"
        chain += struct.pack("<I", _gnu_hash(name.encode()) & ~1 | (number == len(symbols)))
    hashes = struct.pack("<IIIIQI", 1, 1, 1, 0, 0, 1) + chain  # one bucket, which begins with symbol 1
    at, tables = PAGE + 64, b""
    places = []
    for table in (entries, strings.ljust(len(strings) + 7 & ~7, b"\0"), hashes):
        places.append(at + len(tables))
        tables += table
    dynamic = struct.pack("<6Q", 6, places[0], 5, places[1], 0x6FFFFEF5, places[2]).ljust(64, b"\0")
    size = 2 * PAGE
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, PAGE)
    head += struct.pack("<IIQQQQQQ", 2, 4, PAGE, PAGE, PAGE, 64, 64, 8)
    return (head.ljust(PAGE, b"\0") + dynamic + tables).ljust(size, b"\0")


class FakePython(FakeProcess):
    """A process with a CPython 3.12 that has thread states without frames."""

    LIBRARY, RUNTIME, TYPE, INTERPRETER, STATES = 0x10000, 0x100000, 0x120000, 0x140000, 0x200000
    AT = Layout(**TABLES[3, 12])
    NEEDED = ("_PyRuntime", "PyCode_Type", "PyUnicode_Type", "PyBytes_Type", "PyFrame_Type", "Py_Version")

    def __init__(self, root: Path, *tids: int) -> None:
        super().__init__(root)
        symbols = dict.fromkeys(self.NEEDED, self.TYPE - self.LIBRARY)
        symbols["_PyRuntime"] = self.RUNTIME - self.LIBRARY
        self.write(self.TYPE, struct.pack("<Q", 0x030C01F0))
        self.map(self.LIBRARY, library(symbols), "/usr/lib/libpython3.12.so")
        self.word(self.RUNTIME + self.AT.runtime_interpreters, self.INTERPRETER)
        self.word(self.INTERPRETER + self.AT.interp_threads, self.STATES if tids else 0)
        self.states(*tids)

    def word(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<Q", value))

    def states(self, *tids: int) -> None:
        """One for each TID, in the thread's own namespace."""
        size, last = 0x400, len(tids) - 1
        self.write(
            self.STATES,
            b"".join(
                self._state(
                    self.STATES + (number - 1) * size if number else 0,
                    self.STATES + (number + 1) * size if number < last else 0,
                    self.INTERPRETER,
                    tid,
                ).ljust(size, b"\0")
                for number, tid in enumerate(tids)
            ),
        )

    def interpreters(self, count: int, tid: int) -> None:
        """So many, each with a state of one thread."""
        at, size = self.AT, 0x400
        for number in range(count):
            place = self.STATES + number * size
            self.word(place + at.interp_next, place + size if number + 1 < count else 0)
            self.word(place + at.interp_threads, place + size // 2)
            self.write(place + size // 2, self._state(0, 0, place, tid))
        self.word(self.RUNTIME + at.runtime_interpreters, self.STATES)

    def _state(self, previous: int, following: int, interpreter: int, tid: int) -> bytes:
        at, memory = self.AT, bytearray(self.AT.thread_size)
        fields = (at.thread_prev, at.thread_next, at.thread_interp, at.thread_native)
        for field, value in zip(fields, (previous, following, interpreter, tid), strict=True):
            struct.pack_into("<Q", memory, field, value)
        return bytes(memory)

    def stack(self, tables: Sequence[bytes], offset: int = 1 << 20) -> None:
        """Of the first thread: a function for each line table, so far into it; all begin on line 7."""
        at, frame, text = self.AT, 0x4000000, 0x3FFFF00
        self.word(self.STATES + at.thread_frame, frame - 8)
        self.word(frame - 8 + at.cframe_frame, frame)
        self._object(text, {at.str_length: 1, at.str_state: (1 | 1 << 3 | 1 << 4) << 2})
        code = frame + 0x100 * len(tables)
        for number, content in enumerate(tables, 1):
            table = code + 0x200
            names = dict.fromkeys((at.code_filename, at.code_name, at.code_qualname), text)
            self._object(code, {at.object_size: 1 << 20, at.code_linetable: table, **names})
            self.write(code + at.code_first_line, struct.pack("<i", 7))
            self._object(table, {at.object_size: len(content)})
            self.write(table + at.bytes_data, content)
            self.word(frame + at.frame_previous, frame + 0x100 if number < len(tables) else 0)
            self.word(frame + at.frame_code, code)
            self.word(frame + at.frame_instr, code + at.code_bytecode + offset)
            frame, code = frame + 0x100, table + 0x100 + (len(content) & ~7)

    def _object(self, address: int, fields: dict[int, int]) -> None:
        for field, value in {self.AT.object_type: self.TYPE, **fields}.items():
            self.word(address + field, value)
