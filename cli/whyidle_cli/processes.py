"""Checks, before a daemon is asked, that a number is a process that can be observed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from whyidle_cli.errors import KernelThread, NoSuchProcess, OwnProcess, ThreadNotProcess

_PROC: Final = Path("/proc")
_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h


def check_process(pid: int, proc: Path = _PROC) -> None:
    """Raise NoSuchProcess, KernelThread, ThreadNotProcess or OwnProcess if ``pid`` cannot be observed.

    ``proc`` is where procfs is mounted.
    """
    if pid == os.getpid():
        raise OwnProcess(pid)
    if pid <= 0:
        raise NoSuchProcess(pid)
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
        status = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError:
        raise NoSuchProcess(pid) from None
    # The name is in parentheses and may hold any character, so the rest begins after the last one.
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    if int(fields[6]) & _PF_KTHREAD:
        raise KernelThread(pid, name)
    if fields[0] in "ZX":
        raise NoSuchProcess(pid, ended=True)
    process = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:")), pid)
    if process != pid:
        raise ThreadNotProcess(pid, process)


def command_of(pid: int, proc: Path = _PROC) -> tuple[str, ...]:
    """The command line of a process; empty if it is gone or has erased it."""
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return (
        tuple(part.decode("utf-8", "replace") for part in raw.removesuffix(b"\0").split(b"\0")) if raw else ()
    )
