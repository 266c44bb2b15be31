"""Python objects in another process: strings, bytes and code, each checked to be what is promised."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from whyidle_daemon.pystack import lines
from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.layout import Layout
from whyidle_daemon.pystack.memory import Fields, Read

MAX_FUNCTION = 512
MAX_FILE = 4096
_MAX_STRING = 1 << 20
MAX_TABLES = 1 << 16  # bytes that are searched in one reading: 0.2 µs each at most
_MAX_TABLE = MAX_TABLES  # only generated code has larger ones
_MAX_BYTECODE = 1 << 26
_MAX_LINE = 1 << 31
_MAX_LINES_CACHED = 64
_REFERENCES = 8  # bytes at the start of an object: how many refer to it, which matters to nobody here
_NUMBERED = (3, 12)  # from here on each code object has a number of its own, among its first fields
_LATIN1, _UCS2, _UCS4 = 1, 2, 4


class Types(NamedTuple):
    """Addresses of the type objects in the target."""

    code: int
    str: int
    bytes: int
    frame: int


_Pieces = tuple[tuple[int, int, int], ...]


class Code:
    """What is kept of a code object.

    ``head`` is its memory up to what is read of it, ``units`` the length of its bytecode since 3.11 and
    ``table`` the address of its line table. ``behind`` has what its pointers lead to, where another one at
    the same address may have the same head: addresses, sizes in bytes and hashes.
    """

    __slots__ = ("behind", "file", "first_line", "function", "head", "lines", "table", "units")

    def __init__(
        self,
        head: bytes,
        *,
        units: int,
        table: int,
        function: str,
        file: str,
        first_line: int,
        behind: _Pieces,
    ) -> None:
        self.head, self.units, self.table = head, units, table
        self.function, self.file, self.first_line = function, file, first_line
        self.behind = behind
        self.lines: dict[int, int | None] = {}


class Objects:
    """Reader of objects, with a cache of code objects bounded in number and in characters.

    Raises :class:`StackError`: ``torn`` where an object is not what its pointer promised.
    """

    def __init__(
        self,
        read: Read,
        version: tuple[int, int],
        at: Layout,
        types: Types,
        *,
        entries: int = 4096,
        characters: int = 1 << 20,
    ) -> None:
        self._read = read
        self._version = version
        self._at = at
        self._types = types
        self._entries, self._characters = entries, characters
        self._cache: OrderedDict[int, Code] = OrderedDict()
        self._files: dict[str, str] = {}
        self._held = 0
        self._tables = MAX_TABLES
        self._string_head = Fields((at.object_type, "Q"), (at.str_length, "q"), (at.str_state, "I"))
        self._bytes_head = Fields((at.object_type, "Q"), (at.object_size, "q"))
        self._code_head = Fields(
            (at.object_type, "Q"),
            # Code units since 3.11; before, the size is fixed and the argument count stands here.
            (at.object_size, "q" if at.code_bytecode >= 0 else "i"),
            (at.code_filename, "Q"),
            (at.code_name, "Q"),
            (at.code_linetable, "Q"),
            (at.code_first_line, "i"),
            *([(at.code_qualname, "Q")] if at.code_qualname != at.code_name else []),
        )

    def allow(self, tables: int) -> None:
        """From now on so many bytes of line tables are searched; a line that takes more is ``torn``."""
        self._tables = tables

    def text(self, address: int, limit: int) -> str:
        """A ``str``, cut at ``limit`` characters. Surrogates become U+FFFD; nothing else is changed."""
        start, size, kind = self._characters_of(address, limit)
        if not size:
            return ""
        raw = self._read(start, size)
        if kind == _LATIN1:
            return raw.decode("latin-1")
        # A lone surrogate (a file name that is not UTF-8) could not be encoded by whoever prints it.
        return raw.decode("utf-16-le" if kind == _UCS2 else "utf-32-le", "replace")

    def _characters_of(self, address: int, limit: int) -> tuple[int, int, int]:
        """Where the first characters of a ``str`` are, their size in bytes, and that of each."""
        check(address)
        kind_of, length, state = self._string_head(self._read(address, self._string_head.size))
        if kind_of != self._types.str or not 0 <= length <= _MAX_STRING:
            raise StackError("torn", "not a string")
        state >>= self._at.str_kind_shift
        kind, compact, ascii_only = state & 7, state >> 3 & 1, state >> 4 & 1
        if not compact or kind not in (_LATIN1, _UCS2, _UCS4) or (ascii_only and kind != _LATIN1):
            raise StackError("torn", "not a string of a known form")
        start = address + (self._at.str_ascii if ascii_only else self._at.str_compact)
        return start, min(length, limit) * kind, kind

    def data(self, address: int) -> bytes | None:
        """A ``bytes`` object, ``None`` for one larger than a line table that is searched."""
        check(address)
        kind_of, length = self._bytes_head(self._read(address, self._bytes_head.size))
        if kind_of != self._types.bytes or length < 0:
            raise StackError("torn", "not a bytes object")
        if length > _MAX_TABLE:
            return None
        return self._read(address + self._at.bytes_data, length) if length else b""

    def code(self, address: int) -> Code:
        """A code object, from the cache if the one at the address is still the same."""
        check(address)
        memory = self._read(address, self._code_head.size)
        head = memory[_REFERENCES:]
        known = self._cache.get(address)
        if (
            known is not None
            and known.head == head
            and all(hash(self._read(at, size)) == then for at, size, then in known.behind)
        ):
            self._cache.move_to_end(address)
            return known
        kind_of, units, in_file, name, table, first_line, *qualified = self._code_head(memory)
        if kind_of != self._types.code:
            raise StackError("torn", "not a code object")
        if not 0 <= first_line < _MAX_LINE or not 0 <= units <= _MAX_BYTECODE:
            raise StackError("torn", "a code object out of reason")
        file = self._shared(self.text(in_file, MAX_FILE))
        function = self.text(qualified[0] if qualified else name, MAX_FUNCTION)
        again = self._version < _NUMBERED and _passing(file, function)
        code = Code(
            head,
            units=units,
            table=table,
            function=function,
            file=file,
            first_line=first_line,
            behind=self._behind(in_file, table) if again else (),
        )
        self._keep(address, code)
        return code

    def _behind(self, file: int, table: int) -> _Pieces:
        """A file's name and a line table, given where these objects are."""
        start, size, _ = self._characters_of(file, MAX_FILE)
        ends = ((file, start + size), (table, table + self._at.bytes_data + len(self.data(table) or b"")))
        pieces = [(at + _REFERENCES, end - at - _REFERENCES) for at, end in ends]
        return tuple((at, size, hash(self._read(at, size))) for at, size in pieces)

    def line(self, code: Code, offset: int) -> int | None:
        """Line of the instruction at ``offset`` bytes, ``None`` where it has none.

        The first line of the function where its table is too large.
        """
        if offset < 0:
            return code.first_line  # not begun
        if offset in code.lines:
            return code.lines[offset]
        table = self.data(code.table)
        if table is None:
            found: int | None = code.first_line
        else:
            self._tables -= len(table)
            if self._tables < 0:
                raise StackError("torn", "too many lines to look up")
            found = lines.line(self._version, table, code.first_line, offset)
        if found is not None and not 0 <= found < _MAX_LINE:
            raise StackError("torn", "a line out of reason")
        if len(code.lines) >= _MAX_LINES_CACHED:
            code.lines.clear()
        code.lines[offset] = found
        return found

    def _keep(self, address: int, code: Code) -> None:
        old = self._cache.pop(address, None)
        if old is not None:
            self._held -= len(old.function) + len(old.file)
        self._cache[address] = code
        self._held += len(code.function) + len(code.file)
        while len(self._cache) > self._entries or self._held > self._characters:
            _, dropped = self._cache.popitem(last=False)
            self._held -= len(dropped.function) + len(dropped.file)

    def _shared(self, file: str) -> str:
        """One copy of a file name for all the code in it."""
        if len(self._files) >= 1024:
            self._files.clear()
        return self._files.setdefault(file, file)


def _passing(file: str, function: str) -> bool:
    """Is it of the code that runs once and is freed, so that the next takes its place, and its tables'?

    A module's, and all that was made from a string. Functions of a file may take the place of earlier ones of
    that file as well, when it runs again; to look for that would double the price of each stack.
    """
    return function == "<module>" or (file.startswith("<") and not file.startswith("<frozen "))


def check(address: int) -> None:
    """Raises ``torn`` unless an object can be there: CPython aligns all of them to 8 bytes."""
    if address & 7 or not 4096 <= address < 1 << 56:
        raise StackError("torn", "a pointer out of range")
