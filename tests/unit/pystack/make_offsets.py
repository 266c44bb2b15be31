"""Makes ``pystack/tables.py``: where CPython 3.8-3.12 keep what stacks need, and 3.11-3.15 what tasks do.

Run as ``python make_offsets.py INCLUDE_DIR...`` with one ``include/python3.X`` folder per version; prints the
module. Each table comes from a C program compiled against that version's own internal headers, so nothing
here is written down by hand. ``test_tables.py`` runs it again for the headers that a host has.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = """
runtime_interpreters    OFF(_PyRuntimeState, interpreters.head)
interp_next             OFF(PyInterpreterState, next)
interp_id               OFF(PyInterpreterState, id)
interp_threads          OFF(PyInterpreterState, THREADS)
interp_modules          OFF(PyInterpreterState, MODULES)
interp_size             sizeof(PyInterpreterState)
thread_prev             OFF(PyThreadState, prev)
thread_next             OFF(PyThreadState, next)
thread_interp           OFF(PyThreadState, interp)
thread_frame            OFF(PyThreadState, FRAME)
thread_id               OFF(PyThreadState, thread_id)
thread_native           NATIVE
thread_size             sizeof(PyThreadState)
cframe_frame            CFRAME
frame_previous          OFF(FRAME_T, PREVIOUS)
frame_code              OFF(FRAME_T, CODE)
frame_instr             OFF(FRAME_T, INSTR)
frame_owner             OWNER
code_filename           OFF(PyCodeObject, co_filename)
code_name               OFF(PyCodeObject, co_name)
code_qualname           OFF(PyCodeObject, QUALNAME)
code_linetable          OFF(PyCodeObject, LINETABLE)
code_first_line         OFF(PyCodeObject, co_firstlineno)
code_bytecode           BYTECODE
object_type             OFF(PyObject, ob_type)
object_size             OFF(PyVarObject, ob_size)
bytes_data              OFF(PyBytesObject, ob_sval)
str_length              OFF(PyASCIIObject, length)
str_state               OFF(PyASCIIObject, state)
str_kind_shift          kind_shift()
str_ascii               (long)sizeof(PyASCIIObject)
str_compact             (long)sizeof(PyCompactUnicodeObject)
"""

# Of objects, for asyncio's tasks: what the runtime does not describe by itself in 3.13 either.
OBJECT_FIELDS = """
dict_keys               OFF(PyDictObject, ma_keys)
dict_values             OFF(PyDictObject, ma_values)
keys_log2_index_bytes   OFF(PyDictKeysObject, dk_log2_index_bytes)
keys_kind               OFF(PyDictKeysObject, dk_kind)
keys_entries            OFF(PyDictKeysObject, dk_nentries)
keys_indices            OFF(PyDictKeysObject, dk_indices)
values_first            OFF(PyDictValues, values)
set_mask                OFF(PySetObject, mask)
set_table               OFF(PySetObject, table)
weakref_object          OFF(PyWeakReference, wr_object)
module_dict             OFF(PyModuleObject, md_dict)
type_name               OFF(PyTypeObject, tp_name)
type_basic_size         OFF(PyTypeObject, tp_basicsize)
type_flags              OFF(PyTypeObject, tp_flags)
type_members            OFF(PyTypeObject, tp_members)
type_base               OFF(PyTypeObject, tp_base)
type_dict_offset        OFF(PyTypeObject, tp_dictoffset)
type_cached_keys        OFF(PyHeapTypeObject, ht_cached_keys)
member_size             sizeof(PyMemberDef)
member_type             OFF(PyMemberDef, type)
member_offset           OFF(PyMemberDef, offset)
coroutine_state         OFF(PyCoroObject, cr_frame_state)
coroutine_frame         OFF(PyCoroObject, cr_iframe)
frame_stack_top         OFF(_PyInterpreterFrame, STACK_TOP)
frame_locals            OFF(_PyInterpreterFrame, localsplus)
long_value              sizeof(PyVarObject)
interp_size             sizeof(PyInterpreterState)
thread_size             sizeof(PyThreadState)
interp_tasks            INTERP_TASKS
thread_tasks            THREAD_TASKS
"""
OBJECT_VERSIONS = ((3, 11), (3, 12), (3, 13), (3, 14), (3, 15))

SOURCE = """
#define Py_BUILD_CORE 1
#include <Python.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <structmember.h>
#if PY_VERSION_HEX < 0x03090000
# include <internal/pycore_pystate.h>
# include <frameobject.h>
#else
# include <internal/pycore_interp.h>
# include <internal/pycore_runtime.h>
#endif
#if PY_VERSION_HEX >= 0x030e0000
# include <internal/pycore_interpframe.h>
# include <internal/pycore_tstate.h>
# include <internal/pycore_dict.h>
# include <internal/pycore_moduleobject.h>
#elif PY_VERSION_HEX >= 0x030b0000
# include <internal/pycore_frame.h>
# include <internal/pycore_dict.h>
# include <internal/pycore_moduleobject.h>
#else
# include <frameobject.h>
#endif
#define OFF(type, member) ((long)offsetof(type, member))
#if PY_VERSION_HEX >= 0x030b0000
# define THREADS threads.head
# define FRAME_T _PyInterpreterFrame
# define PREVIOUS previous
# define NATIVE OFF(PyThreadState, native_thread_id)
# define OWNER OFF(_PyInterpreterFrame, owner)
# define QUALNAME co_qualname
# define BYTECODE OFF(PyCodeObject, co_code_adaptive)
#else
# define THREADS tstate_head
# define FRAME_T PyFrameObject
# define PREVIOUS f_back
# define NATIVE (-1L)
# define OWNER (-1L)
# define QUALNAME co_name
# define BYTECODE (-1L)
#endif
#if PY_VERSION_HEX >= 0x030d0000
# define CODE f_executable
# define INSTR instr_ptr
# define FRAME current_frame
#elif PY_VERSION_HEX >= 0x030b0000
# define CODE f_code
# define INSTR prev_instr
# define FRAME cframe
# define CFRAME OFF(_PyCFrame, current_frame)
#else
# define CODE f_code
# define INSTR f_lasti
# define FRAME frame
#endif
#if PY_VERSION_HEX >= 0x030e0000
# define STACK_TOP stackpointer
# define INTERP_TASKS OFF(PyInterpreterState, asyncio_tasks_head)
# define THREAD_TASKS OFF(_PyThreadStateImpl, asyncio_tasks_head)
#else
# define STACK_TOP stacktop
# define INTERP_TASKS (-1L)
# define THREAD_TASKS (-1L)
#endif
#if PY_VERSION_HEX >= 0x030c0000
# define MODULES imports.modules
#else
# define MODULES modules
#endif
#if PY_VERSION_HEX >= 0x030a0000
# define LINETABLE co_linetable
#else
# define LINETABLE co_lnotab
#endif
#ifndef CFRAME
# define CFRAME (-1L)
#endif
static long kind_shift(void) {
    PyASCIIObject text;
    unsigned int bits;
    memset(&text, 0, sizeof text);
    text.state.kind = 1;
    memcpy(&bits, &text.state, sizeof bits);
    return __builtin_ctz(bits);
}
int main(void) {
    printf("%d %d\\n", PY_MAJOR_VERSION, PY_MINOR_VERSION);
"""


def program(fields: str) -> str:
    """The C program: one line of output per field, after the version."""
    lines = [line.split(None, 1) for line in fields.split("\n") if line]
    return (
        SOURCE + "".join(f'    printf("{name} %ld\\n", (long)({value}));\n' for name, value in lines) + "}\n"
    )


def offsets(include: Path, fields: str = FIELDS) -> tuple[tuple[int, int], dict[str, int]]:
    """The version and offsets that one folder of headers says. Raises ``CalledProcessError``."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "offsets.c"), Path(folder, "offsets")
        source.write_text(program(fields))
        flags = [f"-I{include}", f"-I{include / 'internal'}", f"-I{include.parent}"]
        subprocess.run(["cc", "-w", *flags, str(source), "-o", str(binary)], check=True, capture_output=True)
        out = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout.splitlines()
    major, minor = out[0].split()
    return (int(major), int(minor)), {name: int(value) for name, value in map(str.split, out[1:])}


def module(
    tables: dict[tuple[int, int], dict[str, int]], objects: dict[tuple[int, int], dict[str, int]]
) -> str:
    """Text of ``tables.py``."""
    text = '"""Generated by tests/unit/pystack/make_offsets.py: bytes from the start of each structure."""\n'
    for name, by_version in (("TABLES", tables), ("OBJECTS", objects)):
        text += f"\n{name}: dict[tuple[int, int], dict[str, int]] = {{\n"
        for version, table in sorted(by_version.items()):
            text += f"    {version}: {{\n"
            text += "".join(f'        "{field}": {value},\n' for field, value in table.items())
            text += "    },\n"
        text += "}\n"
    return text


if __name__ == "__main__":
    found = {offsets(Path(folder))[0]: Path(folder) for folder in sys.argv[1:]}
    sys.stdout.write(
        module(
            {version: offsets(folder)[1] for version, folder in found.items() if version < (3, 13)},
            {version: offsets(found[version], OBJECT_FIELDS)[1] for version in OBJECT_VERSIONS},
        )
    )
