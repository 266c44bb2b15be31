"""From an instruction to a line of source: pure functions over the three line tables that CPython has had.

``lnotab`` until 3.9 (``Objects/lnotab_notes.txt``), PEP 626 ranges in 3.10, the location table since 3.11
(``InternalDocs/code_objects.md``). ``offset`` is in bytes from the first instruction. A result is ``None``
where the table says that no line stands behind the instruction. Tables come from a target: anything goes in,
nothing but ``None`` or a number comes out, in time linear in the table's size.
"""

from __future__ import annotations

_NO_LOCATION, _LONG, _NO_COLUMN, _ONE_LINE = 15, 14, 13, 10


def line(version: tuple[int, int], table: bytes, first: int, offset: int) -> int | None:
    """Line of the instruction at ``offset`` (bytes) in a code object that starts on line ``first``."""
    if version < (3, 10):
        return from_lnotab(table, first, offset)
    if version < (3, 11):
        return from_ranges(table, first, offset)
    return from_locations(table, first, offset)


def from_lnotab(table: bytes, first: int, offset: int) -> int | None:
    """3.8 and 3.9: pairs of bytes, an advance in instructions and a signed one in lines."""
    address, current = 0, first
    for step, jump in zip(table[::2], table[1::2], strict=False):
        address += step
        if address > offset:
            break
        current += jump - 256 if jump > 127 else jump
    return current


def from_ranges(table: bytes, first: int, offset: int) -> int | None:
    """3.10: pairs of bytes, the length of a range and a signed advance in lines; -128 is no line."""
    end, current = 0, first
    for length, jump in zip(table[::2], table[1::2], strict=False):
        end += length
        signed = jump - 256 if jump > 127 else jump
        if signed != -128:
            current += signed
        if offset < end:
            return None if signed == -128 else current
    return None


def from_locations(table: bytes, first: int, offset: int) -> int | None:
    """3.11 on: entries of a head byte (bit 7, a kind, a length in code units) and what the kind asks for."""
    position, end, current, size = 0, 0, first, len(table)
    while position < size:
        head = table[position]
        position += 1
        kind = head >> 3 & 15
        end += ((head & 7) + 1) * 2
        if kind in (_LONG, _NO_COLUMN):
            value, shift = 0, 0
            while position < size:
                byte = table[position]
                position += 1
                value |= (byte & 63) << shift
                shift += 6
                if not byte & 64 or shift > 60:
                    break
            current += -(value >> 1) if value & 1 else value >> 1
        elif _ONE_LINE <= kind < _NO_COLUMN:
            current += kind - _ONE_LINE
        if end > offset:
            return None if kind == _NO_LOCATION else current
        # What is left of the entry are columns; a head has bit 7 and nothing after it does.
        while position < size and not table[position] & 128:
            position += 1
    return None
