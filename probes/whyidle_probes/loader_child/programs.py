"""Loading and attaching what bcc compiled.

bcc 0.26 knows no tp_btf programs, so its bytecode goes to the kernel through libbpf. A tp_btf program
reads fields of a task by plain loads, where a raw tracepoint needs a helper call for each.
"""

from __future__ import annotations

import ctypes as c
import os
from typing import Any, NamedTuple

_KPROBE, _PERF_EVENT, _TRACING = 2, 7, 26
_TRACE_RAW_TP, _TRACE_ITER, _TRACE_UPROBE_MULTI = 23, 28, 48
_LOG_SIZE = 1 << 20
_LOG_LINES = 12


class LoadError(Exception):
    """The kernel refused a program; ``log`` holds the verifier's last lines."""

    def __init__(self, program: str, number: int, log: str) -> None:
        super().__init__(f"the kernel refused the program {program}: {os.strerror(number)}")
        self.program, self.number, self.log = program, number, log


class AttachError(Exception):
    """A loaded program could not be attached."""


class Program(NamedTuple):
    """One program: its function, how it attaches, and to what."""

    function: str
    # "tracepoint", "iterator"; attached later, where they are needed: "uprobe", "clock", and "on demand",
    # which is a tracepoint
    kind: str
    attach: str
    optional: bool = False


class _Options(c.Structure):
    """struct bpf_prog_load_opts of libbpf 0.7 to 1.x."""

    _fields_ = (
        ("sz", c.c_size_t),
        ("attempts", c.c_int),
        ("expected_attach_type", c.c_int),
        ("prog_btf_fd", c.c_uint32),
        ("prog_flags", c.c_uint32),
        ("prog_ifindex", c.c_uint32),
        ("kern_version", c.c_uint32),
        ("attach_btf_id", c.c_uint32),
        ("attach_prog_fd", c.c_uint32),
        ("attach_btf_obj_fd", c.c_uint32),
        ("fd_array", c.c_void_p),
        ("func_info", c.c_void_p),
        ("func_info_cnt", c.c_uint32),
        ("func_info_rec_size", c.c_uint32),
        ("line_info", c.c_void_p),
        ("line_info_cnt", c.c_uint32),
        ("line_info_rec_size", c.c_uint32),
        ("log_level", c.c_uint32),
        ("log_size", c.c_uint32),
        ("log_buf", c.c_void_p),
    )


def load(lib: Any, program: Program, code: bytes, btf_id: int, uprobe_multi: bool) -> int:
    """Load one program and return its descriptor. Raises :class:`LoadError` with the verifier's words.

    ``uprobe_multi``: uprobes will be attached by links (6.6 and later), not by perf events.
    """
    kind, attach = {
        "tracepoint": (_TRACING, _TRACE_RAW_TP),
        "on demand": (_TRACING, _TRACE_RAW_TP),
        "iterator": (_TRACING, _TRACE_ITER),
        "uprobe": (_KPROBE, _TRACE_UPROBE_MULTI if uprobe_multi else 0),
        "clock": (_PERF_EVENT, 0),
    }[program.kind]
    lib.bpf_prog_load.argtypes = (c.c_int, c.c_char_p, c.c_char_p, c.c_char_p, c.c_size_t, c.c_void_p)
    log = None
    for level in (0, 1):  # the log costs time and memory: only when it is needed
        log = c.create_string_buffer(_LOG_SIZE) if level else None
        options = _Options(
            sz=c.sizeof(_Options),
            expected_attach_type=attach,
            attach_btf_id=btf_id,
            log_level=level,
            log_size=_LOG_SIZE if log else 0,
            log_buf=c.cast(log, c.c_void_p) if log else None,
        )
        name = program.function.encode()[:15]
        fd: int = lib.bpf_prog_load(kind, name, b"GPL", code, len(code) // 8, c.byref(options))
        if fd >= 0:
            return fd
    number = c.get_errno() or -fd
    text = log.value.decode("utf-8", "replace") if log else ""
    raise LoadError(program.function, number, "\n".join(text.strip().splitlines()[-_LOG_LINES:]))


def attach(lib: Any, program: Program, fd: int) -> int:
    """Attach a loaded program and return the link's descriptor, which keeps it attached."""
    if program.kind == "tracepoint":
        link: int = lib.bpf_raw_tracepoint_open(None, fd)
    else:
        link = lib.bpf_link_create(fd, 0, _TRACE_ITER, None)
    if link < 0:
        number = c.get_errno() or -link
        raise AttachError(
            f"{program.function} could not be attached to {program.attach}: {os.strerror(number)}"
        )
    return link
