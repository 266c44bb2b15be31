"""Giving up what is needed no more once the probes are attached.

The loader child needs to load programs; afterwards the daemon reads maps, attaches uprobes and looks into
processes. Each capability that stays says what breaks without it. What goes, goes from the bounding set as
well, so that no program this process might be made to execute gets it back.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
from typing import Final

log = logging.getLogger(__name__)

_VERSION_3: Final = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_READ = 24, 38, 23
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_SETPCAP: Final = 8

NAMES: Final = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_SETGID": 6, "CAP_SETUID": 7,
    "CAP_SETPCAP": 8, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40,
}  # fmt: skip

KEPT: Final = {
    "CAP_BPF": "reading maps, where unprivileged_bpf_disabled is set and the kernel is older than 5.19",
    "CAP_PERFMON": "uprobes on libraries that are mapped later (llama.cpp, CUDA, getaddrinfo)",
    "CAP_SYS_PTRACE": "stacks (/proc/PID/mem), executables, environments and open files of other users",
    "CAP_DAC_READ_SEARCH": "opening an engine library that only its owner may read",
    "CAP_CHECKPOINT_RESTORE": "opening mapped libraries by /proc/PID/map_files: deleted ones, in containers",
    "CAP_SETUID": "making a recording as the user who asked for it (setfsuid)",
    "CAP_SETGID": "the same for his group",
}


def kept(uprobe_multi: bool) -> dict[str, str]:
    """The capabilities that stay on this host, each with what breaks without it.

    ``uprobe_multi``: this kernel attaches uprobes by links.
    """
    if uprobe_multi:
        return KEPT
    return {**KEPT, "CAP_SYS_ADMIN": "uprobes by perf_event_open, as this kernel has no links for them (6.6)"}


def drop(keep: dict[str, str]) -> None:
    """Keep only these capabilities, for this thread, those it starts, and its children.

    Raises OSError when the kernel refuses. Does nothing without root.
    """
    if os.geteuid() != 0:
        return
    wanted = {NAMES[name] for name in keep}
    libc = ctypes.CDLL(None, use_errno=True)
    effective, permitted, _ = _get(libc)
    if permitted >> _SETPCAP & 1:
        number = 0
        while (has := libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
            if has and number not in wanted:
                _check(libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
            number += 1
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << number for number in wanted)
    _set(libc, effective & mask, permitted & mask)
    _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    log.info("capabilities kept: %s", ", ".join(n for n in keep if permitted >> NAMES[n] & 1) or "none")


def _get(libc: ctypes.CDLL) -> tuple[int, int, int]:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    _check(libc.capget(header, data))
    e0, p0, i0, e1, p1, i1 = struct.unpack("=6I", data.raw[:24])
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def _set(libc: ctypes.CDLL, effective: int, permitted: int) -> None:
    low = 0xFFFFFFFF
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0))
    data = struct.pack(
        "=6I", effective & low, permitted & low, 0, effective >> 32, permitted >> 32, 0
    )  # nothing inheritable
    _check(libc.capset(header, ctypes.create_string_buffer(data)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number))
