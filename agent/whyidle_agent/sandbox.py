"""`execute_code`: a model's Python program in a sandbox of bubblewrap, or not at all.

The program has namespaces of its own: no network but its own loopback, no process to see but its own, no
file but the system's (read-only) and a small memory-backed folder that vanishes with it. Resource limits
bound it, the wall clock and a watch on its memory end it; system calls for memory that the watch would not
see are refused. It runs as nobody when the agent is root, because the kernel does not hold root to a limit
on processes.
"""

import contextlib
import json
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from whyidle_agent import seccomp
from whyidle_agent.text import for_prompt
from whyidle_agent.tools import Observation

MAX_CODE_BYTES = 32 << 10  # handed over through a pipe, which holds 64 KiB
_NOBODY = 65534
_SHOWN = 400
_TICK_S = 0.05
_DEATH_S = 5.0
_OWN_MEMORY = ("RssAnon:", "VmSwap:")


@dataclass(frozen=True)
class Limits:
    """What one program may use: seconds, bytes, numbers."""

    wall_s: float = 10.0
    cpu_s: int = 5  # of each process
    memory: int = 256 << 20  # address space of each process, and all of them together in resident memory
    disk: int = 16 << 20
    processes: int = 32
    output: int = 64 << 10


def execute_code(code: str, limits: Limits = Limits()) -> Observation:
    """Run the Python program `code`; gives what it printed, or why it was refused or ended.

    Never raises for what the program does. Nothing of it is left running when this returns or raises.
    """
    data = code.encode("utf-8", "replace")
    if len(data) > MAX_CODE_BYTES:
        return Observation(f"refused: more than {MAX_CODE_BYTES} bytes of code", ok=False)
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return Observation("refused: no sandbox on this host: install bubblewrap", ok=False)
    machine = os.uname().machine
    calls = seccomp.program(machine)
    if calls is None:
        return Observation(f"refused: no sandbox for {machine}", ok=False)
    status_read, status_write = os.pipe()
    with os.fdopen(status_read, "rb") as status:
        filter_read = _piped(calls)
        try:
            identity = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
            process = subprocess.Popen(
                _command(bwrap, limits, status_write, filter_read),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(status_write, filter_read),
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"},  # noqa: S108 - its own
                start_new_session=True,
                **identity,  # type: ignore[call-overload]
            )
        except OSError as error:
            return Observation(f"refused: the sandbox does not start: {error.strerror}", ok=False)
        finally:
            os.close(status_write)
            os.close(filter_read)
        with process:
            try:
                output, ended = _watch(process, data, limits)
            finally:
                _end(process)
        code_or_none = None if ended else _exit_code(status.read(4096))
    said = for_prompt(output.decode("utf-8", "replace"), _SHOWN)
    if ended:
        return Observation(f"ended: {ended}. Output: {said}", ok=False)
    if code_or_none is None:
        return Observation(f"refused: no sandbox on this host: {said}", ok=False)
    if code_or_none:
        return Observation(f"exit status {code_or_none}. Output: {said}", ok=False)
    return Observation(said or "no output", ok=True)


def _piped(data: bytes) -> int:
    """Return a descriptor to read `data` from: not more than a pipe holds."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


def _command(bwrap: str, limits: Limits, status: int, calls: int) -> list[str]:
    """Return what to run. `status`, `calls`: descriptors, of bubblewrap's account and of the filter."""
    arguments = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    arguments += ["--cap-drop", "ALL", "--json-status-fd", str(status), "--seccomp", str(calls)]
    for path in ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", path, path]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        arguments += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(limits.disk), "--tmpfs", "/tmp"]  # noqa: S108
    # A shared mapping of /dev/zero is memory that belongs to no process, and no system call by itself.
    arguments += ["--ro-bind", "/dev/null", "/dev/zero"]
    # bubblewrap's root, /dev and /dev/shm are memory as well, without a limit: nothing is written there.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]  # noqa: S108
    arguments += ["prlimit", f"--cpu={limits.cpu_s}", f"--as={limits.memory}", f"--fsize={limits.disk}"]
    arguments += [f"--nproc={limits.processes}", "--nofile=64", "--core=0", "--memlock=0", "--msgqueue=0"]
    return [*arguments, "--", f"{sys.base_prefix}/bin/python3", "-I", "-"]


def _watch(process: "subprocess.Popen[bytes]", code: bytes, limits: Limits) -> tuple[bytes, str]:
    """Feed and read the program until it ends; gives its output and why it is to be ended, if it is."""
    assert process.stdin is not None
    assert process.stdout is not None
    deadline = time.monotonic() + limits.wall_s
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(code)
        process.stdin.flush()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if time.monotonic() > deadline:
                return bytes(output), f"it ran longer than {limits.wall_s:g} s"
            if _memory(process.pid) > limits.memory + limits.disk:
                return bytes(output), f"it used more than {limits.memory >> 20} MiB of memory"
            if not selector.select(_TICK_S):
                continue
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return bytes(output), ""
            output += piece
            if len(output) > limits.output:
                return bytes(output[: limits.output]), f"it printed more than {limits.output} bytes"


def _memory(pid: int) -> int:
    """Return the memory of `pid` and all below it, in RAM or swapped out, bytes.

    Without what they map from files: those in memory are in the limited folder, as the filter of system calls
    leaves no other way to memory that is not a process' own.
    """
    total = 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{child.pid}/status").read_text("utf-8", "replace").splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(_OWN_MEMORY)) << 10
    except psutil.Error:
        return 0
    return total


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill bubblewrap unless it has ended, and with it the first process of the namespace: all die."""
    try:
        # Its output has ended, so it is ending by itself, unless the program closed its own output.
        process.wait(timeout=_TICK_S if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        # The first process of the namespace goes by itself when bubblewrap does. It is waited for, by a
        # handle that cannot come to mean another process: it has ended when all the others have.
        handles = []
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            handles = [os.pidfd_open(child.pid) for child in psutil.Process(process.pid).children()]
        process.kill()
        process.wait()
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], _DEATH_S)
            os.close(handle)


def _exit_code(status: bytes) -> int | None:
    """Return the program's exit status from bubblewrap's account; None: it was never started."""
    for line in status.splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("exit-code"), int):
                return int(record["exit-code"])
    return None
