"""Is this process a CPython, which one, and where is its runtime?

The answer is in the dynamic symbol table of the executable or of ``libpython``, read from the target's own
memory: that works for stripped and deleted files and in containers, without access to their file systems.
Everything is the target's word, so every number is checked before use, and nothing that one process says of a
file is believed of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from whyidle_daemon.elf import ElfError, ElfFile
from whyidle_daemon.elf import Read as ReadFile
from whyidle_daemon.proc import Mapping, Proc
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.layout import DEBUG_OFFSETS_SIZE, Layout, layout
from whyidle_daemon.pystack.memory import TOP, Read
from whyidle_daemon.pystack.objects import Types

_LIBRARY = re.compile(r"^libpython[0-9.]*[a-z]*\.so")
_PROGRAM = re.compile(r"^python[0-9.]*[a-z]*( \(deleted\))?$")
_NAMED = re.compile(r"(?:^|/)(?:lib)?python(\d)\.(\d{1,2})[a-z]*(?:/|$|\.so| \(deleted\)$)")
_SYMBOLS = ("_PyRuntime", "PyCode_Type", "PyUnicode_Type", "PyBytes_Type", "PyFrame_Type")
_OPTIONAL = (  # the first since 3.11, the others for asyncio's tasks alone
    "Py_Version",
    *"PySet_Type PyDict_Type PyModule_Type PyLong_Type _PyWeakref_RefType".split(),
    *"PyCoro_Type PyGen_Type PyAsyncGen_Type".split(),
)
_PAGE = 4096
_MAX_RUNTIME = 1 << 20  # bytes


class Interpreter(NamedTuple):
    """The CPython of one process image. ``runtime`` and ``symbols`` are addresses in the target."""

    version: tuple[int, int]
    runtime: int
    layout: Layout
    types: Types
    symbols: dict[str, int]


def discover(pid: int, read: Read, proc: Proc) -> Interpreter | None:
    """The interpreter in a process, ``None`` when there is none.

    Raises :class:`StackError`: ``unsupported`` for a CPython unknown here, ``gone``, ``unreadable``.
    """
    mappings = list(proc.mappings(pid))
    for file in _candidates(pid, mappings, proc):
        try:
            elf = _LoadedElf(read, file)
            symbols = _symbols(elf)
        except ElfError:
            continue
        if symbols is not None:
            return _interpreter(read, elf.bias, symbols, [file[0].path, *(m.path for m in mappings)])
    return None


def version_from_names(paths: Iterable[str]) -> tuple[int, int] | None:
    """The version in the first path that names one: ``libpython3.9.so.1.0``, ``lib/python3.9/x.so``."""
    for path in paths:
        for major, minor in _NAMED.findall(path):
            return int(major), int(minor)
    return None


def _candidates(pid: int, mappings: list[Mapping], proc: Proc) -> list[list[Mapping]]:
    """Mapped files that may hold an interpreter, each as its mappings by address; the library first."""
    try:
        program = str(proc.path(pid, "exe").readlink())
    except OSError:
        program = ""
    files: dict[tuple[Any, ...], list[Mapping]] = {}
    ranks: dict[tuple[Any, ...], int] = {}
    for mapping in mappings:
        name = mapping.path.rpartition("/")[2]
        rank = 0 if _LIBRARY.match(name) else 1 if mapping.path == program or _PROGRAM.match(name) else None
        if rank is not None:
            key = (*mapping.device, mapping.inode, mapping.path)
            files.setdefault(key, []).append(mapping)
            ranks[key] = rank
    found = [files[key] for key in sorted(files, key=lambda key: ranks[key])]
    return [sorted(file) for file in found if min(file).offset == 0][:8]


class _LoadedElf(ElfFile):
    """An ELF file as the dynamic linker left it in memory."""

    def __init__(self, read: Read, file: list[Mapping]) -> None:
        self._maps = file
        self.bias = 0
        super().__init__(self._reader(read))

    def _reader(self, read: Read) -> ReadFile:
        maps = self._maps  # not this object, which would then hold itself

        def at(offset: int, size: int) -> bytes:
            for mapping in maps:
                inside = offset - mapping.offset
                room = mapping.end - mapping.start - inside
                if inside >= 0 and room > 0:
                    return read(mapping.start + inside, min(size, room)) if size > 0 else b""
            return b""

        return at

    def _read_dynamic(self, headers: list[tuple[int, ...]]) -> dict[int, int]:
        self.bias = self._find_bias()
        lowest = self._maps[0].start
        entries = super()._read_dynamic(headers)
        # glibc writes addresses over the file's own numbers, musl leaves them.
        return {tag: value - self.bias if value >= lowest else value for tag, value in entries.items()}

    def _find_bias(self) -> int:
        """What relocation added to the addresses in the file."""
        for segment in self.segments:
            if segment.offset < _PAGE:
                return self._maps[0].start - (segment.address - segment.offset)
        raise ElfError("the first page is not loaded")


def _symbols(elf: _LoadedElf) -> dict[str, int] | None:
    """Their addresses before relocation, ``None`` for a file that holds no interpreter."""
    found: dict[str, int] = {}
    for name in (*_SYMBOLS, *_OPTIONAL):
        value = elf.symbol(name)
        if value is not None:
            found[name] = value
        elif name not in _OPTIONAL:
            return None
    return found


def _interpreter(read: Read, bias: int, symbols: dict[str, int], paths: list[str]) -> Interpreter:
    at = {name: bias + value for name, value in symbols.items()}
    runtime = at["_PyRuntime"]
    if not 0 < runtime < TOP - _MAX_RUNTIME:
        raise StackError("unsupported", "a runtime out of range")
    if "Py_Version" in at:
        number = int.from_bytes(read(at["Py_Version"], 8), "little")
        version = (number >> 24, number >> 16 & 0xFF)
    else:
        named = version_from_names(paths)
        if named is None:
            raise StackError("unsupported", "a Python that does not say its version")
        version = named
    head = read(runtime, DEBUG_OFFSETS_SIZE) if version >= (3, 13) else b""
    types = Types(at["PyCode_Type"], at["PyUnicode_Type"], at["PyBytes_Type"], at["PyFrame_Type"])
    return Interpreter(version, runtime, layout(version, head), types, at)
