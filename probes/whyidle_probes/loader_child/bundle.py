"""Compiled programs and the maps they share, as bytes: what bcc is needed for, and what it is not.

bcc writes the descriptors of the maps it made into the bytecode. Here each is replaced by the map's place in
a list, so that the same bytecode can be loaded again, with maps of :func:`make_maps`, in another process.
"""

from __future__ import annotations

import base64
import ctypes as c
import hashlib
import json
import os
import struct
from typing import Any, Iterable, NamedTuple

_INSTRUCTION = struct.Struct("<BBhi")  # code, registers, offset, immediate
_LOAD_64, _MAP_FD = 0x18, 1  # a load of a 64-bit immediate; its source says: this is a map
_INFO_SIZE = 256
_INFO = struct.Struct("<6I16s")  # struct bpf_map_info: type, id, key, value, entries, flags, name
_MAX_MAPS, _MAX_PROGRAMS, _MAX_INSTRUCTIONS = 64, 128, 1 << 20
_DIGEST = 32


class BundleError(Exception):
    """These bytes are no bundle."""


class MapError(Exception):
    """The kernel did not make a map."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"the kernel does not let this process make the map {name}: {os.strerror(number)}")
        self.number = number


class Map(NamedTuple):
    """A map as it is made: sizes in bytes."""

    name: str
    kind: int
    key: int
    value: int
    entries: int
    flags: int


class Bundle(NamedTuple):
    """Programs by function, whose map references are places in ``maps``."""

    maps: tuple[Map, ...]
    programs: dict[str, bytes]

    def code(self, function: str, descriptors: dict[str, int]) -> bytes:
        """The bytecode of a function for these maps."""
        places = [descriptors[about.name] for about in self.maps]
        return _replaced(self.programs[function], places.__getitem__)

    def dump(self) -> bytes:
        """Bytes for :func:`load`, with a digest in front."""
        programs = {name: base64.b64encode(code).decode() for name, code in self.programs.items()}
        text = json.dumps({"maps": self.maps, "programs": programs}, sort_keys=True).encode()
        return hashlib.sha256(text).digest() + text


def load(data: bytes) -> Bundle:
    """A bundle from its bytes; raises :class:`BundleError` unless every one of them is as it was written."""
    digest, text = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(text).digest() != digest:
        raise BundleError("its digest is another")
    try:
        table = json.loads(text)
        maps = tuple(Map(str(name), *map(int, numbers)) for name, *numbers in table["maps"])
        programs = {str(n): base64.b64decode(code, validate=True) for n, code in table["programs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError("its content is none") from None
    if not (0 < len(maps) <= _MAX_MAPS and 0 < len(programs) <= _MAX_PROGRAMS):
        raise BundleError("its content is none")
    for code in programs.values():
        if len(code) % _INSTRUCTION.size or len(code) > _MAX_INSTRUCTIONS * _INSTRUCTION.size:
            raise BundleError("a program is cut")
        if any(not 0 <= place < len(maps) for place in _places(code)):
            raise BundleError("a program uses a map that it does not have")
    return Bundle(maps, programs)


def from_module(module: Any, functions: Iterable[str], libbpf: Any) -> Bundle:
    """What bcc compiled. ``module`` is its BPF object, whose maps exist."""
    from bcc.libbcc import lib

    lib.bpf_table_name.restype = c.c_char_p
    lib.bpf_table_name.argtypes = (c.c_void_p, c.c_ulonglong)
    maps: list[Map] = []
    places: dict[int, int] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        descriptor = lib.bpf_table_fd_id(module.module, number)
        places[descriptor] = len(maps)
        maps.append(_about(libbpf, descriptor, lib.bpf_table_name(module.module, number).decode()))
    codes = {name: module.dump_func(name.encode()) for name in functions}
    return Bundle(tuple(maps), {name: _replaced(code, places.__getitem__) for name, code in codes.items()})


class _MapOptions(c.Structure):
    """struct bpf_map_create_opts of libbpf 0.7 to 1.x."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("btf_fd", c.c_uint32),
        ("btf_key_type_id", c.c_uint32),
        ("btf_value_type_id", c.c_uint32),
        ("btf_vmlinux_value_type_id", c.c_uint32),
        ("inner_map_fd", c.c_uint32),
        ("map_flags", c.c_uint32),
        ("map_extra", c.c_uint64),
        ("numa_node", c.c_uint32),
        ("map_ifindex", c.c_uint32),
    )


def make_maps(libbpf: Any, maps: Iterable[Map]) -> dict[str, int]:
    """Make them all, and return their descriptors by name. Raises :class:`MapError`."""
    libbpf.bpf_map_create.argtypes = (c.c_int, c.c_char_p, *[c.c_uint32] * 3, c.c_void_p)
    found = {}
    for about in maps:
        options = _MapOptions(sz=c.sizeof(_MapOptions), map_flags=about.flags)
        sizes = (about.key, about.value, about.entries)
        descriptor = libbpf.bpf_map_create(about.kind, about.name.encode()[:15], *sizes, c.byref(options))
        if descriptor < 0:
            raise MapError(about.name, c.get_errno() or -descriptor)
        found[about.name] = descriptor
    return found


def _about(libbpf: Any, descriptor: int, name: str) -> Map:
    info, size = c.create_string_buffer(_INFO_SIZE), c.c_uint32(_INFO_SIZE)
    if libbpf.bpf_obj_get_info_by_fd(descriptor, info, c.byref(size)) < 0:
        raise MapError(name, c.get_errno())
    kind, _, key, value, entries, flags, _ = _INFO.unpack_from(info)
    return Map(name, kind, key, value, entries, flags)


def _places(code: bytes) -> list[int]:
    """The immediates of all references to maps."""
    found: list[int] = []

    def keep(number: int) -> int:
        found.append(number)
        return number

    _replaced(code, keep)
    return found


def _replaced(code: bytes, by: Any) -> bytes:
    """The same program with another number for each map."""
    changed = bytearray(code)
    at = 0
    while at < len(code):
        operation, registers, offset, immediate = _INSTRUCTION.unpack_from(code, at)
        if operation == _LOAD_64:
            if registers >> 4 == _MAP_FD:
                _INSTRUCTION.pack_into(changed, at, operation, registers, offset, by(immediate))
            at += _INSTRUCTION.size  # its second half is an immediate and no instruction
        at += _INSTRUCTION.size
    return bytes(changed)
