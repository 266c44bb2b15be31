"""Where a CPython version keeps what a stack read needs.

3.8 to 3.12 come from :mod:`~whyidle_daemon.pystack.tables`, generated from the headers of each. 3.13 and
later describe themselves: ``_PyRuntime`` begins with ``_Py_DebugOffsets`` (CPython
``Include/internal/pycore_debug_offsets.h``). Its groups come in the same order in all of them; each version
has more of them, and more fields in some. What the target says of itself is checked for reason before use.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from whyidle_daemon.pystack.errors import StackError
from whyidle_daemon.pystack.tables import TABLES

COOKIE = b"xdebugpy"
NEWEST = (3, 15)
DEBUG_OFFSETS_SIZE = 1024
_HEAD = struct.Struct("<8sQQ")
_MAX_OFFSET, _MAX_SMALL = 1 << 20, 4096  # where structures end at the latest; a frame fits a walker's window
_FIELD = 8  # bytes of the largest

_MORE = {"+": (3, 14), "*": (3, 15)}  # from which version on
_GROUPS = """
runtime_state: size finalizing interpreters_head
interpreter_state: size id next threads_head +threads_main gc imports_modules sysdict builtins ceval_gil
    gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
    +code_object_generation +tlbc_generation
thread_state: size prev next interp current_frame *base_frame *last_profiled_frame *last_profiled_frame_seq
    thread_id native_thread_id datastack_chunk status *holds_gil *gil_requested *current_exception *exc_state
err_stackitem: *exc_value
interpreter_frame: size previous executable instr_ptr localsplus owner +stackpointer +tlbc_index
code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
    co_code_adaptive +co_tlbc
pyobject: size ob_type
type_object: size tp_name tp_repr tp_flags *tp_basicsize *tp_dictoffset
heap_type_object: *size *ht_cached_keys
tuple_object: size ob_item ob_size
list_object: size ob_item ob_size
set_object: +size +used +table +mask
dict_object: size ma_keys ma_values
float_object: size ob_fval
long_object: size lv_tag ob_digit
bytes_object: size ob_size ob_sval
unicode_object: size state length asciiobject_size *compactunicodeobject_size
"""


def _names(version: tuple[int, int]) -> list[str]:
    """The 64-bit numbers that follow cookie, version and free-threading, as ``group.field``."""
    names, group = [], ""
    for word in _GROUPS.split():
        if word.endswith(":"):
            group = word[:-1]
        elif version >= _MORE.get(word[0], version):
            names.append(f"{group}.{word.lstrip(''.join(_MORE))}")
    return names


class Layout(NamedTuple):
    """Offsets in bytes; -1 where a version has no such field."""

    runtime_interpreters: int
    interp_next: int
    interp_id: int
    interp_threads: int
    interp_modules: int
    interp_size: int
    thread_prev: int
    thread_next: int
    thread_interp: int
    thread_frame: int
    thread_id: int
    thread_native: int
    thread_size: int
    cframe_frame: int
    frame_previous: int
    frame_code: int
    frame_instr: int
    frame_owner: int
    code_filename: int
    code_name: int
    code_qualname: int
    code_linetable: int
    code_first_line: int
    code_bytecode: int
    object_type: int
    object_size: int
    bytes_data: int
    str_length: int
    str_state: int
    str_kind_shift: int
    str_ascii: int
    str_compact: int


def layout(version: tuple[int, int], head: bytes) -> Layout:
    """The layout of a version, given the first :data:`DEBUG_OFFSETS_SIZE` bytes of its ``_PyRuntime``.

    Raises :class:`StackError` ``unsupported`` for a version that is not known here, a free-threaded build,
    and offsets out of reason.
    """
    if version in TABLES:
        return Layout(**TABLES[version])
    if not (3, 13) <= version <= NEWEST:
        raise StackError("unsupported", f"Python {version[0]}.{version[1]}")
    return _described(version, head)


def _described(version: tuple[int, int], head: bytes) -> Layout:
    cookie, number, free_threaded = _HEAD.unpack_from(head)
    if cookie != COOKIE or (number >> 24, number >> 16 & 0xFF) != version:
        raise StackError("unsupported", "the runtime does not describe itself")
    if free_threaded:
        raise StackError("unsupported", f"free-threaded Python {version[0]}.{version[1]}")
    names = _names(version)
    said = dict(zip(names, struct.unpack_from(f"<{len(names)}Q", head, _HEAD.size), strict=True))
    found = Layout(
        runtime_interpreters=said["runtime_state.interpreters_head"],
        interp_next=said["interpreter_state.next"],
        interp_id=said["interpreter_state.id"],
        interp_threads=said["interpreter_state.threads_head"],
        interp_modules=said["interpreter_state.imports_modules"],
        interp_size=said["interpreter_state.size"],
        thread_prev=said["thread_state.prev"],
        thread_next=said["thread_state.next"],
        thread_interp=said["thread_state.interp"],
        thread_frame=said["thread_state.current_frame"],
        thread_id=said["thread_state.thread_id"],
        thread_native=said["thread_state.native_thread_id"],
        thread_size=said["thread_state.size"],
        cframe_frame=-1,  # 3.11 and 3.12: the thread state points to a structure that points to the frame
        frame_previous=said["interpreter_frame.previous"],
        frame_code=said["interpreter_frame.executable"],
        frame_instr=said["interpreter_frame.instr_ptr"],
        frame_owner=said["interpreter_frame.owner"],
        code_filename=said["code_object.filename"],
        code_name=said["code_object.name"],
        code_qualname=said["code_object.qualname"],
        code_linetable=said["code_object.linetable"],
        code_first_line=said["code_object.firstlineno"],
        code_bytecode=said["code_object.co_code_adaptive"],
        object_type=said["pyobject.ob_type"],
        object_size=said["tuple_object.ob_size"],
        bytes_data=said["bytes_object.ob_sval"],
        str_length=said["unicode_object.length"],
        str_state=said["unicode_object.state"],
        str_kind_shift=2,  # two bits of interning come first in builds with a GIL
        str_ascii=said["unicode_object.asciiobject_size"],
        str_compact=said["unicode_object.asciiobject_size"] + 16,  # then utf8_length and utf8
    )
    _check(found)
    return found


def _check(found: Layout) -> None:
    """Raises ``unsupported`` unless every field lies inside a structure of a size that can be."""
    for name, offset in found._asdict().items():
        limit = _MAX_OFFSET if name.startswith(("runtime", "interp")) else _MAX_SMALL
        if name != "cframe_frame" and not 0 <= offset <= limit - _FIELD:
            raise StackError("unsupported", f"an offset out of reason: {name}")
