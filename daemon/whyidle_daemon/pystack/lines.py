"""From an instruction to a line of source: pure functions over the three line tables that CPython has had.

``lnotab`` until 3.9 (``Objects/lnotab_notes.txt``), PEP 626 ranges in 3.10, the location table since 3.11
(``InternalDocs/code_objects.md``). ``offset`` is in bytes from the first instruction. A result is ``None``
where the table says that no line stands behind the instruction. Tables come from a target: anything goes in,
nothing but ``None`` or a number comes out, in time linear in the table's size.
"""

from __future__ import annotations

_NO_LOCATION, _NO_COLUMN, _ONE_LINE = 15, 13, 10  # between the first two: with columns, and any lines
_DONE = 66  # bits of a number, six a byte; a longer one is cut


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
    end, current, kind, value, shift = 0, first, _NO_LOCATION, 0, _DONE
    for byte in table:
        if byte & 128:  # a head has bit 7, and nothing after it does
            if end > offset:
                break
            kind = byte >> 3 & 15
            end += ((byte & 7) + 1) * 2
            if kind >= _ONE_LINE:
                if kind < _NO_COLUMN:
                    current += kind - _ONE_LINE
                elif kind < _NO_LOCATION:
                    value, shift = 0, 0
                    continue
            shift = _DONE
        elif shift < _DONE:  # of the lines that a long entry advances; what is left of any entry are columns
            value |= (byte & 63) << shift
            shift += 6
            if not byte & 64 or shift >= _DONE:
                current += -(value >> 1) if value & 1 else value >> 1
                shift = _DONE
    return current if end > offset and kind != _NO_LOCATION else None
