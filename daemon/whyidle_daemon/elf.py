"""One question to an ELF file: where is this dynamic symbol?

Looks it up in the dynamic symbol table through the hash table that the dynamic linker itself uses, so a
library of 100 MB costs a few small reads. Needs no section headers: stripped files work. The file belongs
to a target and is hostile: every count is bounded and every read checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` returns exactly that many bytes or fewer at the end of the file."""

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_DYN = struct.Struct("<QQ")
_SYM = struct.Struct("<IBBHQQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 5, 6, 0x6FFFFEF5
_MAX_SEGMENTS, _MAX_DYNAMIC, _MAX_CHAIN = 128, 512, 4096
_STT_FUNC_OR_OBJECT = (0, 1, 2, 10)


class ElfError(ValueError):
    """Not an ELF file of a kind that this reads (64 bit, little-endian), or a damaged one."""


class Segment(NamedTuple):
    """A loaded part of the file; all in bytes."""

    address: int
    offset: int
    size: int


class ElfFile:
    """The dynamic symbols of one file. Raises :class:`ElfError`."""

    def __init__(self, read: Read) -> None:
        self._read = read
        head = self._unpack(_EHDR, 0)
        ident = head[0]
        if ident[:6] != b"\x7fELF\x02\x01":
            raise ElfError("not a 64-bit little-endian ELF file")
        table, size, count = head[5], head[9], head[10]
        if size != _PHDR.size or count > _MAX_SEGMENTS:
            raise ElfError("unreasonable program headers")
        headers = [self._unpack(_PHDR, table + i * size) for i in range(count)]
        self.segments = [Segment(h[3], h[2], h[5]) for h in headers if h[0] == _PT_LOAD]
        self._dynamic = self._read_dynamic([h for h in headers if h[0] == _PT_DYNAMIC])

    def symbol(self, name: str) -> int | None:
        """Address of a defined dynamic symbol before relocation, ``None`` when it is not there."""
        table, strings = self._dynamic.get(_DT_GNU_HASH), self._dynamic.get(_DT_STRTAB)
        symbols = self._dynamic.get(_DT_SYMTAB)
        if table is None or strings is None or symbols is None:
            return None
        wanted = name.encode()
        number = _gnu_hash(wanted)
        buckets, first, bloom = struct.unpack("<III", self._at(table, 12))
        if not buckets:
            return None
        bucket_table = table + 16 + bloom * 8
        (index,) = struct.unpack("<I", self._at(bucket_table + (number % buckets) * 4, 4))
        if index < first:
            return None
        chain = bucket_table + buckets * 4
        for step in range(_MAX_CHAIN):
            (found,) = struct.unpack("<I", self._at(chain + (index + step - first) * 4, 4))
            if found | 1 == number | 1:
                entry, info, _, section, value, _ = _SYM.unpack(
                    self._at(symbols + (index + step) * _SYM.size, _SYM.size)
                )
                text = self._at(strings + entry, len(wanted) + 1)
                if text == wanted + b"\0" and section and info & 0xF in _STT_FUNC_OR_OBJECT:
                    return int(value)
            if found & 1:
                return None
        raise ElfError("a hash chain without end")

    def file_offset(self, address: int) -> int:
        """Offset in the file of an address that :meth:`symbol` gave."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        raise ElfError("an address outside every loaded segment")

    def _read_dynamic(self, headers: list[tuple[int, ...]]) -> dict[int, int]:
        if not headers:
            raise ElfError("no dynamic section (a static binary)")
        offset, size = headers[0][2], headers[0][5]
        data = self._read(offset, min(size, _MAX_DYNAMIC * _DYN.size))
        entries: dict[int, int] = {}
        for position in range(0, len(data) - _DYN.size + 1, _DYN.size):
            tag, value = _DYN.unpack_from(data, position)
            if tag == 0:
                break
            entries.setdefault(tag, value)
        return entries

    def _at(self, address: int, size: int) -> bytes:
        data = self._read(self.file_offset(address), size)
        if len(data) < size:
            raise ElfError("cut off")
        return data

    def _unpack(self, form: struct.Struct, offset: int) -> tuple[Any, ...]:
        data = self._read(offset, form.size)
        if len(data) < form.size:
            raise ElfError("cut off")
        return form.unpack(data)


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
