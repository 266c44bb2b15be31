"""Attributes of instances by name in another process, for CPython 3.11 to 3.15.

What a class says of its instances (the names that they share, its slots, its ancestors' names) is read once
and kept for some readings of the tasks; an address may get another class, so whoever uses what is found here
checks it against something that does not depend on the target's word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.memory import Fields, Read
from whyidle_daemon.pystack.objects import Objects, check

_MANAGED_DICT, _HEAP_TYPE = 1 << 4, 1 << 9  # Include/object.h, Py_TPFLAGS_*
_SLOT = (6, 16)  # T_OBJECT and T_OBJECT_EX, Include/descrobject.h
_MAX_BASES = 12
_MAX_SLOTS = 64
_MAX_KNOWN = 512
_MAX_NAME = 64
_MAX_ATTRIBUTES = 256
_MAX_SIZE = 4096  # of an instance


class Kind(NamedTuple):
    """A class: its name and its ancestors' (the first in each line), and where its instances keep what."""

    names: tuple[str, ...]
    size: int
    shared: dict[str, int]
    keys: int
    slots: dict[str, int]
    dict_offset: int  # where a pointer to the dictionary is; 0: none; -1: before the object
    array_at: int = 0  # where the values are, in the object; 0: not in it


class Instances:
    """Raises :class:`StackError`."""

    def __init__(self, read: Read, heap: Heap, objects: Objects) -> None:
        self._read, self._heap, self._objects = read, heap, objects
        at = heap.at
        self._type = Fields(
            (at.type_name, "Q"),
            (at.type_basic_size, "q"),
            (at.type_flags, "Q"),
            (at.type_members, "Q"),
            (at.type_base, "Q"),
            (at.type_dict_offset, "q"),
        )
        self._member = Fields((0, "Q"), (at.member_type, "i"), (at.member_offset, "q"))
        self._kinds: dict[int, Kind] = {}

    def forget(self) -> None:
        """Read the classes again."""
        self._kinds.clear()

    def kind(self, instance: int) -> Kind:
        """The class of an object."""
        address = self._heap.type_of(instance)
        found = self._kinds.get(address)
        if found is None:
            if len(self._kinds) >= _MAX_KNOWN:
                self._kinds.clear()
            found = self._kinds[address] = self._kind(address)
        return found

    def attributes(self, instance: int, kind: Kind, names: Sequence[str]) -> Iterator[int]:
        """Addresses of the attributes of these names that an instance has, in the order of ``names``."""
        values = dictionary = 0
        if kind.dict_offset < 0:
            values, dictionary = self._heap.places(instance, kind.array_at)
        elif kind.dict_offset:
            dictionary = self._heap.pointer(instance + kind.dict_offset)
        if dictionary:
            keys, shared = self._heap.keys_of(dictionary)
            if keys == kind.keys and shared:
                values, dictionary = shared, 0
        first = self._heap.at.values_first
        for name in names:
            value = None
            if name in kind.slots:
                value = self._heap.pointer(instance + kind.slots[name])
            elif values and name in kind.shared:
                value = self._heap.pointer(values + first + 8 * kind.shared[name])
            elif dictionary:
                value = self._heap.get(dictionary, name, _MAX_ATTRIBUTES)
            if value:
                yield value

    def _kind(self, address: int) -> Kind:
        names: list[str] = []
        slots: dict[str, int] = {}
        kind, size, flags, dict_offset = address, 0, 0, 0
        while kind and len(names) < _MAX_BASES:
            check(kind)
            _, basic, own_flags, members, base, offset = self._type(self._read(kind, self._type.size))
            if not names:
                size, flags, dict_offset = basic, own_flags, offset
            names.append(self._heap.type_name(kind))
            if own_flags & _HEAP_TYPE and members:
                self._add_slots(members, slots)
            kind = base
        if not names:
            raise StackError("torn", "an object without a type")
        if flags & _MANAGED_DICT:
            dict_offset = -1
        elif not 0 < dict_offset < _MAX_SIZE or dict_offset & 7:
            dict_offset = 0
        keys = 0
        shared: dict[str, int] = {}
        if dict_offset and flags & _HEAP_TYPE:
            keys = self._heap.pointer(address + self._heap.at.type_cached_keys)
            if keys:
                shared = {
                    self._objects.text(name, _MAX_NAME): index
                    for index, name in enumerate(self._heap.shared_names(keys))
                    if name
                }
        size = max(0, min(size, _MAX_SIZE))
        array_at = self._heap.array_at(size, flags)
        return Kind(tuple(names), size, shared, keys, slots, dict_offset, array_at)

    def _add_slots(self, members: int, slots: dict[str, int]) -> None:
        size = self._heap.at.member_size
        for index in range(_MAX_SLOTS):
            name, kind, offset = self._member(self._read(members + index * size, self._member.size))
            if not name:
                return
            if kind in _SLOT and 0 < offset < _MAX_SIZE and not offset & 7:
                slots.setdefault(self._c_text(name), offset)

    def _c_text(self, address: int) -> str:
        for size in (_MAX_NAME, 1):  # it may end with its page
            try:
                return self._read(address, size).partition(b"\0")[0].decode("ascii", "replace")
            except StackError as error:
                if error.reason == "gone":
                    raise
        return ""

    def words(self, instance: int, size: int) -> tuple[int, ...]:
        """The first ``size`` bytes of an object as 64-bit words."""
        size = min(size, _MAX_SIZE) & ~7
        return struct.unpack(f"<{size // 8}Q", self._read(instance, size)) if size else ()
