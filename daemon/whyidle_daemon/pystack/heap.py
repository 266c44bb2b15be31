"""Dictionaries, sets and the attributes of instances in another process, for CPython 3.11 to 3.15.

Only what asyncio's tasks need: a value by its name, and the members of a set. Everything is bounded and each
object's type is checked, so a dictionary that changes meanwhile gives ``torn`` or a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.memory import Fields, Read
from whyidle_daemon.pystack.objects import check
from whyidle_daemon.pystack.runtime import Interpreter
from whyidle_daemon.pystack.tables import OBJECTS

_MAX_ENTRIES = 1 << 16
_MAX_ATTRIBUTES = 8
_MAX_SHARED = 128
_GENERAL, _UNICODE, _SPLIT = 0, 1, 2
_INLINE_VALUES = 1 << 2  # Py_TPFLAGS_INLINE_VALUES, Include/object.h
_UNCOUNTED = 1  # Py_TAG_REFCNT, Include/internal/pycore_stackref.h
_NEEDED = ("PyDict_Type", "PySet_Type", "PyModule_Type", "_PyWeakref_RefType", "PyCoro_Type", "PyLong_Type")


class ObjectLayout(NamedTuple):
    """Offsets in bytes, as :mod:`~whyidle_daemon.pystack.tables` has them."""

    dict_keys: int
    dict_values: int
    keys_log2_index_bytes: int
    keys_kind: int
    keys_entries: int
    keys_indices: int
    values_first: int
    set_mask: int
    set_table: int
    weakref_object: int
    module_dict: int
    type_name: int
    type_basic_size: int
    type_flags: int
    type_members: int
    type_base: int
    type_dict_offset: int
    type_cached_keys: int
    member_size: int
    member_type: int
    member_offset: int
    coroutine_state: int
    coroutine_frame: int
    frame_stack_top: int
    frame_locals: int
    long_value: int
    interp_size: int
    thread_size: int
    interp_tasks: int
    thread_tasks: int


class Heap:
    """Raises :class:`StackError`: ``unsupported`` on construction for other versions, else ``torn``."""

    def __init__(self, read: Read, python: Interpreter) -> None:
        missing = [name for name in _NEEDED if name not in python.symbols]
        if python.version not in OBJECTS or missing:
            raise StackError("unsupported", f"tasks of Python {python.version[0]}.{python.version[1]}")
        self.at = ObjectLayout(**OBJECTS[python.version])
        self.types = python.symbols
        self._read, self._python = read, python
        self._marked = python.version >= (3, 14)
        self._kind_of = Fields((python.layout.object_type, "Q"))
        self._dict = Fields(
            (python.layout.object_type, "Q"), (self.at.dict_keys, "Q"), (self.at.dict_values, "Q")
        )
        self._keys = Fields(
            (self.at.keys_log2_index_bytes, "B"), (self.at.keys_kind, "B"), (self.at.keys_entries, "q")
        )
        self._set = Fields(
            (python.layout.object_type, "Q"), (self.at.set_mask, "q"), (self.at.set_table, "Q")
        )

    def references(self, words: Iterable[int]) -> Iterator[int]:
        """Addresses of the objects that a frame's words refer to.

        3.14 marks references that it does not count (1), and keeps small numbers there as well (3).
        """
        for word in words:
            address = word & ~_UNCOUNTED if self._marked else word
            if address and not address & 7:
                yield address

    def type_of(self, address: int) -> int:
        """Address of an object's type."""
        check(address)
        return int(self._kind_of(self._read(address, self._kind_of.size)))

    def pointer(self, address: int) -> int:
        check(address)
        return int.from_bytes(self._read(address, 8), "little")

    def type_name(self, kind: int) -> str:
        """Name of a type, its first 32 characters."""
        pointer = self.pointer(kind + self.at.type_name)
        for size in (32, 1):  # a name may end with its page
            try:
                return self._read(pointer, size).partition(b"\0")[0].decode("ascii", "replace")
            except StackError as error:
                if error.reason == "gone":
                    raise
        raise StackError("torn", "a type without a name")

    def version_of(self, dictionary: int) -> tuple[int, int]:
        """Differs once a key was added: where the keys are, and how many there are."""
        _, keys, _ = self._head(dictionary)
        return keys, self._keys(self._read(keys, self._keys.size))[2]

    def get(self, dictionary: int, name: str, limit: int = _MAX_ENTRIES) -> int | None:
        """Address of the value under an ASCII name, ``None`` when it is not there or there are more names."""
        _, keys, values = self._head(dictionary)
        log2, kind, count = self._keys(self._read(keys, self._keys.size))
        if kind not in (_GENERAL, _UNICODE, _SPLIT) or log2 > 24 or not 0 <= count <= _MAX_ENTRIES:
            raise StackError("torn", "not the keys of a dictionary")
        if not 0 < count <= limit:
            return None
        words = 3 if kind == _GENERAL else 2
        entries = struct.unpack(
            f"<{words * count}Q", self._read(keys + self.at.keys_indices + (1 << log2), 8 * words * count)
        )
        for index in range(count):
            key, value = entries[index * words + words - 2], entries[index * words + words - 1]
            if key and self._is_text(key, name):
                if kind == _SPLIT:
                    check(values)
                    value = self.pointer(values + self.at.values_first + 8 * index)
                return value or None
        return None

    def numbered(self, dictionary: int, number: int, limit: int) -> int | None:
        """Address of the value under a number below 2**61 - 1, ``None`` when it is not there.

        Such a number is its own hash, which a dictionary keeps beside each key that is not a string.
        """
        _, keys, _ = self._head(dictionary)
        log2, kind, count = self._keys(self._read(keys, self._keys.size))
        if kind != _GENERAL or log2 > 24 or not 0 < count <= limit:
            return None
        entries = self._read(keys + self.at.keys_indices + (1 << log2), 24 * count)
        for at, key, value in struct.iter_unpack("<3Q", entries):
            if at == number and key and value:
                return int(value)
        return None

    def members(self, address: int) -> Iterator[int]:
        """Addresses of the members of a ``set``, in its own order; places that were emptied may come too."""
        check(address)
        kind_of, mask, table = self._set(self._read(address, self._set.size))
        if kind_of != self.types["PySet_Type"] or not 0 <= mask < _MAX_ENTRIES or mask & (mask + 1):
            raise StackError("torn", "not a set")
        check(table)
        for key, _ in struct.iter_unpack("<QQ", self._read(table, 16 * (mask + 1))):
            if key:
                yield key

    def items(self, address: int, limit: int) -> list[int]:
        """Addresses of the first ``limit`` items of a ``list``."""
        check(address)
        size, first = struct.unpack("<qQ", self._read(address + self._python.layout.object_size, 16))
        if self.type_name(self.type_of(address)) != "list" or not 0 <= size <= _MAX_ENTRIES:
            raise StackError("torn", "not a list")
        count = min(size, limit)
        return list(struct.unpack(f"<{count}Q", self._read(first, 8 * count))) if count else []

    def attribute(self, instance: int, name: str, kind: str) -> int:
        """Address of an instance's attribute: in an array the first of that type, else the one of that name.

        Attributes are in a dictionary, or in an array in the order of their first assignment (CPython
        ``Objects/object_layout.md``), which 3.11 and 3.12 point to and later ones have in the object.
        """
        kind_of = self.type_of(instance)
        size, flags = (self.pointer(kind_of + at) for at in (self.at.type_basic_size, self.at.type_flags))
        values, dictionary = self.places(instance, self.array_at(size, flags))
        if not values:
            found = self.get(dictionary, name) if dictionary else None
            if found is None:
                raise StackError("torn", f"no attribute {name}")
            return found
        check(values)
        for index in range(_MAX_ATTRIBUTES):
            value = self.pointer(values + self.at.values_first + 8 * index)
            if value and self.type_of(value) == self.types[kind]:
                return value
        raise StackError("torn", f"no attribute {name}")

    def array_at(self, size: int, flags: int) -> int:
        """Where instances of a class of this size and flags have their array, 0 where they have none in them.

        3.13 has it behind the head of an object that is nothing else, 3.14 behind whatever an object is.
        """
        if self._python.version < (3, 13) or not flags & _INLINE_VALUES:
            return 0
        return size & ~7 if self._marked else self._python.layout.object_size

    def places(self, instance: int, array_at: int) -> tuple[int, int]:
        """Where an instance keeps its attributes: the array and the dictionary, one of which is 0.

        ``array_at`` is its class's :meth:`array_at`.
        """
        check(instance)
        before = struct.unpack("<4Q", self._read(instance - 32, 32))
        version = self._python.version
        if version == (3, 11):
            return before[0], before[1]
        if version == (3, 12):
            return (before[1] + 1, 0) if before[1] & 1 else (0, before[1])
        if array_at and self._read(instance + array_at, 4)[3] == 1:  # it is in use
            return instance + array_at, 0
        return 0, before[1]

    def keys_of(self, dictionary: int) -> tuple[int, int]:
        """Where a dictionary keeps its keys and, if several share these, its values (else 0)."""
        _, keys, values = self._head(dictionary)
        return keys, values

    def shared_names(self, keys: int) -> list[int]:
        """Addresses of the names, in order, that the instances of a class share."""
        check(keys)
        log2, kind, count = self._keys(self._read(keys, self._keys.size))
        if kind != _SPLIT or log2 > 24 or not 0 <= count <= _MAX_SHARED:
            raise StackError("torn", "no shared keys")
        if not count:
            return []
        start = keys + self.at.keys_indices + (1 << log2)
        return list(struct.unpack(f"<{2 * count}Q", self._read(start, 16 * count))[::2])

    def _head(self, dictionary: int) -> tuple[int, int, int]:
        check(dictionary)
        kind_of, keys, values = self._dict(self._read(dictionary, self._dict.size))
        if kind_of != self.types["PyDict_Type"]:
            raise StackError("torn", "not a dictionary")
        check(keys)
        return kind_of, keys, values

    def _is_text(self, address: int, text: str) -> bool:
        """Is there an ASCII string of this content? One read, because a big dictionary is searched so."""
        layout = self._python.layout
        try:
            check(address)
            data = self._read(address, layout.str_ascii + len(text))
        except StackError as error:
            if error.reason == "gone":
                raise
            return False  # a short string at the end of a page, or no string
        length = int.from_bytes(data[layout.str_length : layout.str_length + 8], "little")
        return length == len(text) and data[layout.str_ascii :] == text.encode()
