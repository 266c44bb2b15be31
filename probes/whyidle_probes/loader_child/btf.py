"""The running kernel's own types, as C declarations and as answers to "does it have …?".

No kernel-headers package is needed: libbpf reads ``/sys/kernel/btf/vmlinux`` and prints just the types
asked for with what they need, in about 30 ms. Features are probed here by what the kernel's types say,
never by a version number.
"""

from __future__ import annotations

import ctypes as c
from typing import Any, Iterable

STRUCT, ENUM, TYPEDEF, FUNC, FUNC_PROTO = 4, 6, 8, 12, 13
_UNION, _KINDS_WITH_MEMBERS = 5, (4, 5)
_MODIFIERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag


class BtfError(Exception):
    """The kernel has no usable type information."""


class _Type(c.Structure):
    _fields_ = (("name", c.c_uint32), ("info", c.c_uint32), ("size_or_type", c.c_uint32))

    @property
    def kind(self) -> int:
        return int(self.info >> 24) & 0x1F

    @property
    def count(self) -> int:
        return int(self.info) & 0xFFFF


class _Member(c.Structure):
    _fields_ = (("name", c.c_uint32), ("type", c.c_uint32), ("offset", c.c_uint32))


class _Value(c.Structure):
    _fields_ = (("name", c.c_uint32), ("value", c.c_int32))


_PRINTF = c.CFUNCTYPE(None, c.c_void_p, c.c_char_p, c.c_void_p)


def open_libbpf() -> Any:
    """The libbpf shared library; raises :class:`OSError` when the package is missing."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            return c.CDLL(name, use_errno=True)
        except OSError:
            continue
    raise OSError("libbpf.so.1 was not found")


class KernelTypes:
    """Type information of the running kernel."""

    def __init__(self, libbpf: Any) -> None:
        self._lib = libbpf
        libbpf.btf__load_vmlinux_btf.restype = c.c_void_p
        libbpf.btf__type_by_id.restype = c.POINTER(_Type)
        libbpf.btf__type_by_id.argtypes = (c.c_void_p, c.c_uint32)
        libbpf.btf__name_by_offset.restype = c.c_char_p
        libbpf.btf__name_by_offset.argtypes = (c.c_void_p, c.c_uint32)
        libbpf.btf__find_by_name_kind.argtypes = (c.c_void_p, c.c_char_p, c.c_uint32)
        libbpf.btf_dump__new.restype = c.c_void_p
        libbpf.btf_dump__new.argtypes = (c.c_void_p, _PRINTF, c.c_void_p, c.c_void_p)
        libbpf.btf_dump__dump_type.argtypes = (c.c_void_p, c.c_uint32)
        libbpf.btf_dump__free.argtypes = (c.c_void_p,)
        self._btf = libbpf.btf__load_vmlinux_btf()
        if not self._btf:
            raise BtfError("the kernel's type information could not be read")

    def id_of(self, name: str, kind: int) -> int:
        """BTF id of a named type, 0 when the kernel has none."""
        found: int = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
        return max(found, 0)

    def tracepoint(self, name: str) -> int:
        """BTF id that a tp_btf program of this tracepoint attaches to, 0: there is none."""
        return self.id_of("btf_trace_" + name, TYPEDEF)

    def tracepoint_arguments(self, name: str) -> int:
        """How many arguments a tracepoint passes."""
        proto = self._type(self._strip(self.tracepoint(name)))
        if proto.kind == 2:  # a pointer to the prototype
            proto = self._type(proto.size_or_type)
        return int(proto.count) - 1  # the first is the tracepoint's private pointer

    def member_bits(self, struct: str, member: str) -> tuple[int, int] | None:
        """Offset and width in bits of a member, also in anonymous inner structs; width 0: no bitfield."""
        found = self.id_of(struct, STRUCT)
        return self._find(found, member.encode()) if found else None

    def has_helper(self, name: str) -> bool:
        """Whether BPF programs can call this helper, by the kernel's list of them."""
        found = self.id_of("bpf_func_id", ENUM)
        if not found:
            return False
        pointer = self._lib.btf__type_by_id(self._btf, found)
        wanted, base = b"BPF_FUNC_" + name.encode(), c.addressof(pointer.contents) + c.sizeof(_Type)
        values = (_Value * pointer.contents.count).from_address(base)
        return any(self._lib.btf__name_by_offset(self._btf, value.name) == wanted for value in values)

    def declarations(self, names: Iterable[tuple[str, int]]) -> str:
        """C declarations of the named types and of what they need; a missing one is skipped."""
        libc = c.CDLL(None)
        libc.vsnprintf.argtypes = (c.c_char_p, c.c_size_t, c.c_char_p, c.c_void_p)
        buffer = c.create_string_buffer(1 << 16)
        parts: list[bytes] = []

        @_PRINTF  # type: ignore[untyped-decorator]
        def write(_context: Any, form: bytes, arguments: Any) -> None:
            libc.vsnprintf(buffer, len(buffer), form, arguments)
            parts.append(buffer.value)

        dump = self._lib.btf_dump__new(self._btf, write, None, None)
        if not dump:
            raise BtfError("libbpf could not start a type dump")
        try:
            for name, kind in names:
                found = self.id_of(name, kind)
                if found and self._lib.btf_dump__dump_type(dump, found) < 0:
                    raise BtfError(f"libbpf could not print type {name}")
        finally:
            self._lib.btf_dump__free(dump)
        return b"".join(parts).decode()

    def _type(self, number: int) -> Any:
        return self._lib.btf__type_by_id(self._btf, number).contents

    def _strip(self, number: int) -> int:
        while self._type(number).kind in _MODIFIERS:
            number = self._type(number).size_or_type
        return number

    def _find(self, number: int, member: bytes) -> tuple[int, int] | None:
        pointer = self._lib.btf__type_by_id(self._btf, number)
        kind_flag = pointer.contents.info >> 31
        base = c.addressof(pointer.contents) + c.sizeof(_Type)
        members = (_Member * pointer.contents.count).from_address(base)
        for m in members:
            offset, width = (m.offset & 0xFFFFFF, m.offset >> 24) if kind_flag else (m.offset, 0)
            name = self._lib.btf__name_by_offset(self._btf, m.name)
            if name == member:
                return offset, width
            if not name:
                inner = self._strip(m.type)
                if self._type(inner).kind in _KINDS_WITH_MEMBERS:
                    found = self._find(inner, member)
                    if found:
                        return offset + found[0], found[1]
        return None
