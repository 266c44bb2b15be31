"""Starts the loader child and receives the descriptors of everything it loaded.

The daemon never imports bcc: a child under the distribution's Python compiles, loads, attaches, passes
the descriptors over a Unix socket and exits. The kernel keeps a program attached exactly as long as
somebody holds its link, so the probes vanish with the process that called :func:`load_probes`, however
it dies.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyidle_probes import syscalls

SYSTEM_PYTHON = "/usr/bin/python3"
MACHINE = "x86_64"  # whose registers wait.h, mapped.bpf.c, first_write.bpf.c and oncpu.bpf.c read by name
CHILD = Path(__file__).parent / "loader_child"
TIMEOUT_S = 60.0
_MAX_REPLY = 1 << 16
_MAX_DESCRIPTORS = 128
_PAGE = 4096
_MAX_PID = 1 << 22  # PID_MAX_LIMIT of 64-bit kernels

MAPS = (
    "threads",
    "processes",
    "engines",
    "waits",
    "gils",
    "config",
    "stats",
    "syscall_class",
    "events",
    "control",
    "first_writes",
    "noticed",
    "notes_wanted",
    "notice",
)

# function, kind, what it attaches to, optional
PROGRAMS = (
    ("wi_sched_switch", "tracepoint", "sched_switch", False),
    ("wi_sched_waking", "tracepoint", "sched_waking", False),
    ("wi_data_ready", "on demand", "sk_data_ready", True),
    ("wi_tcp_state", "tracepoint", "inet_sock_set_state", True),
    ("wi_sent", "tracepoint", "sock_send_length", True),
    ("wi_fork", "tracepoint", "sched_process_fork", False),
    ("wi_exec", "tracepoint", "sched_process_exec", False),
    ("wi_exit", "tracepoint", "sched_process_exit", False),
    ("wi_tasks", "iterator", "task", False),
    ("wi_mapped", "tracepoint", "vm_unmapped_area", True),
    ("wi_oncpu", "clock", "cpu-clock", True),
    ("wi_llama_enter", "uprobe", "llama_decode", False),
    ("wi_llama_return", "uprobe", "llama_decode", False),
    ("wi_context_enter", "uprobe", "llama_init_from_model", True),
    ("wi_context_return", "uprobe", "llama_init_from_model", True),
    ("wi_created_enter", "uprobe", "cuCtxCreate_v2", True),
    ("wi_created_return", "uprobe", "cuCtxCreate_v2", True),
    ("wi_current_enter", "uprobe", "cuCtxSetCurrent", True),
    ("wi_pushed_enter", "uprobe", "cuCtxPushCurrent_v2", True),
    ("wi_popped_enter", "uprobe", "cuCtxPopCurrent_v2", True),
    ("wi_launch_enter", "uprobe", "cuLaunchKernel", True),
    ("wi_copy_enter", "uprobe", "cuMemcpyAsync", True),
    ("wi_sync_enter", "uprobe", "cuStreamSynchronize", True),
    ("wi_sync_return", "uprobe", "cuStreamSynchronize", True),
    ("wi_transfer_enter", "uprobe", "cuMemcpyDtoH", True),
    ("wi_transfer_return", "uprobe", "cuMemcpyDtoH", True),
    ("wi_lookup_enter", "uprobe", "getaddrinfo", True),
    ("wi_lookup_return", "uprobe", "getaddrinfo", True),
)


class LoaderError(Exception):
    """The probes could not be loaded; nothing was left attached.

    ``code`` names the situation (``machine``, ``no_btf``, ``no_bcc``, ``no_libbpf``, ``no_permission``,
    ``too_old``, ``no_tracepoint``, ``verifier``, ``compile``, ``attach``, ``no_python``, ``crashed``);
    ``fix`` says what to do.
    """

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


@dataclass(frozen=True)
class ProbeConfig:
    """Sizes that are fixed when the maps are made. Kernel memory: 664 bytes per thread."""

    max_threads: int = 16384
    max_processes: int = 8192
    max_waits: int = 8192
    max_noticed: int = 4096
    tid_pages: int = 0  # of 4096 TIDs that are told apart at a byte each; 0: as pid_max says
    event_bytes: int = 1 << 21
    control_bytes: int = 1 << 18
    first_write_bytes: int = 1 << 18
    system_python: str = SYSTEM_PYTHON
    cache: Path | None = None  # a directory of root's, for what was compiled; None: compile each time
    programs: tuple[tuple[str, str, str, bool], ...] = PROGRAMS
    without: tuple[str, ...] = ()  # WI_* features of the kernel that are not used, as if it were an older one
    hide_switches: int = 0  # for tests: one of so many switches to a thread is not seen; 0: all are
    hide_leaving: int = 0  # for tests: the same of switches from a thread
    hide_runs: int = 0  # for tests: the same of runs on a CPU, with both switches of each
    slow_leaving: int = 0  # for tests: to leave a CPU takes as long as to read the clock so often

    def request(self) -> dict[str, Any]:
        """What the child is told."""
        for_tests = {
            "WI_HIDE_SWITCHES": self.hide_switches,
            "WI_HIDE_LEAVING": self.hide_leaving,
            "WI_HIDE_RUNS": self.hide_runs,
            "WI_SLOW_LEAVING": self.slow_leaving,
        }
        return {
            "macros": {
                "WI_MAX_THREADS": str(self.max_threads),
                "WI_MAX_PROCESSES": str(self.max_processes),
                "WI_MAX_WAITS": str(self.max_waits),
                "WI_MAX_NOTICED": str(self.max_noticed),
                "WI_TID_PAGES": str(self.tid_pages or _tid_pages()),
                "WI_EVENT_PAGES": str(self.event_bytes // _PAGE),
                "WI_CONTROL_PAGES": str(self.control_bytes // _PAGE),
                "WI_FIRST_PAGES": str(self.first_write_bytes // _PAGE),
                "WI_NR_WRITE": str(syscalls.number_of("write")),
                "WI_NR_WRITEV": str(syscalls.number_of("writev")),
                "WI_NR_SENDTO": str(syscalls.number_of("sendto")),
                "WI_NR_SENDMSG": str(syscalls.number_of("sendmsg")),
                "WI_NR_SENDMMSG": str(syscalls.number_of("sendmmsg")),
                "WI_NR_MMAP": str(syscalls.number_of("mmap")),
                "WI_NR_POLL": str(syscalls.find_number("poll")),
                "WI_NR_EPOLL_PWAIT2": str(syscalls.find_number("epoll_pwait2")),
                **{name: str(number) for name, number in for_tests.items() if number},
            },
            "programs": [list(program) for program in self.programs],
            "maps": list(MAPS),
            "without": list(self.without),
            "cache": str(self.cache.absolute()) if self.cache else None,
            "syscall_classes": syscalls.classes().hex(),
        }


@dataclass(frozen=True)
class Probes:
    """Descriptors by name: ``map:NAME``, ``program:FUNCTION``, ``link:FUNCTION``; and what was missing.

    ``missing``: optional attach points, and ``unix_peer`` where the kernel's types do not say how to find the
    other end of a Unix socket.
    ``uprobe_multi``: uprobes attach by links, which need no privilege beyond the loaded program.
    ``throttling``: who says that a cgroup's CPU limit holds a thread back, ``task`` (exactly) or ``queue``;
    empty: this kernel has no such limit.
    ``cache``: ``used``, ``filled``, ``off``, or why not.
    """

    descriptors: dict[str, int]
    missing: tuple[str, ...]
    uprobe_multi: bool = False
    throttling: str = ""
    cache: str = "off"

    def map(self, name: str) -> int:
        return self.descriptors["map:" + name]

    def program(self, function: str) -> int:
        return self.descriptors["program:" + function]

    def link(self, function: str) -> int:
        return self.descriptors["link:" + function]

    def close(self) -> None:
        """Detach everything."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()


def _tid_pages() -> int:
    """Pages of 4096 TIDs each that the kernel hands out now: 8 to 1024."""
    try:
        limit = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        limit = _MAX_PID
    return -(-min(max(limit, 1), _MAX_PID) // 4096)


def load_probes(config: ProbeConfig | None = None) -> Probes:
    """Load and attach all probes (about half a second). Raises :class:`LoaderError`."""
    config = config or ProbeConfig()
    if platform.machine() != MACHINE:
        raise LoaderError(
            "machine",
            f"whyidle does not run on {platform.machine()}: its probes read the registers of {MACHINE}",
            f"run it on {MACHINE}",
        )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(TIMEOUT_S)
        with theirs:
            try:
                child = subprocess.Popen(
                    [config.system_python, "-E", "-s", str(CHILD), str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
            except OSError as error:
                raise LoaderError(
                    "no_python",
                    f"the distribution's Python did not start: {config.system_python}: {error.strerror}",
                    "apt-get install python3 python3-bpfcc",
                ) from None
        try:
            return _receive(ours, config, child)
        finally:
            if child.poll() is None:
                try:
                    child.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            if child.stderr:
                child.stderr.close()


def _receive(ours: socket.socket, config: ProbeConfig, child: subprocess.Popen[bytes]) -> Probes:
    try:
        ours.send(json.dumps(config.request()).encode())
        data, descriptors, _, _ = socket.recv_fds(ours, _MAX_REPLY, _MAX_DESCRIPTORS)
    except TimeoutError:
        child.kill()
        raise LoaderError("crashed", f"the loader did not finish in {TIMEOUT_S:.0f} s", "try again") from None
    except OSError:
        data, descriptors = b"", []
    if not data:
        said = (child.stderr.read() if child.stderr else b"").decode("utf-8", "replace").strip().splitlines()
        raise LoaderError(
            "crashed",
            "the loader ended without an answer" + (f": {said[-1]}" if said else ""),
            f"{config.system_python} -c 'import bcc' must work: apt-get install --reinstall python3-bpfcc",
        )
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    reply = json.loads(data)
    if "error" in reply:
        error = reply["error"]
        raise LoaderError(error["code"], error["message"], error["fix"])
    named = dict(zip(reply["names"], descriptors, strict=True))
    return Probes(named, tuple(reply["missing"]), reply["uprobe_multi"], reply["throttling"], reply["cache"])
