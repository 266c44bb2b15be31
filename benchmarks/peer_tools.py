"""The peers: how each is started around a program or attached to one, and when it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.measure import BIN, tool
from benchmarks.syscalls import _headers

READY_S = 60.0
WHYIDLE = "whyidle run"
# Time off the CPU by user stack: what bcc's offcputime does by a kprobe, and so on fewer kernels.
OFF_CPU = """
BEGIN { printf("up\\n"); }
tracepoint:sched:sched_switch {
    if (pid == PID && args->prev_state) { @since[args->prev_pid] = nsecs; @stack[args->prev_pid] = ustack; }
    if (@since[args->next_pid]) {
        @off[@stack[args->next_pid]] = sum(nsecs - @since[args->next_pid]);
        delete(@since[args->next_pid]); delete(@stack[args->next_pid]);
    }
}
"""
SYSCALLS = """
BEGIN { printf("up\\n"); }
tracepoint:raw_syscalls:sys_enter /pid == PID/ { @since[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /@since[tid]/ {
    @took[args->id] = hist(nsecs - @since[tid]); delete(@since[tid]);
}
"""


class Tool(NamedTuple):
    """A tool that runs a program (``prefix``) or joins one (``attach``, with PID for its number).

    ``slow``: by how much its runs are shortened, as it slows system calls that much.
    """

    name: str
    package: str
    program: str | None
    prefix: Sequence[str] = ()
    attach: Sequence[str] = ()
    ready: str = ""
    slow: int = 1
    python_only: bool = False

    @property
    def missing(self) -> str:
        """What to install, or nothing."""
        return "" if self.program else f"not installed: {self.package}"


def tools() -> list[Tool]:
    """Whyidle and its peers, the installed and the others."""
    strace, perf, bpftrace = tool("strace"), tool("perf"), tool("bpftrace")
    syscount = tool("syscount-bpfcc", "syscount")
    py_spy = tool(str(BIN / "py-spy"), "py-spy")
    whyidle = str(BIN / "whyidle")
    return [
        Tool(WHYIDLE, "make setup", whyidle, prefix=[whyidle, "run", "--json", "/dev/null", "--"]),
        Tool("py-spy record", "pip install py-spy", py_spy, ready="Sampling process", python_only=True,
             attach=[py_spy or "", "record", "--pid", "PID", "--idle", "--format", "raw", "-o", "/dev/null",
                     "--duration", "600"]),
        Tool("bpftrace, off-CPU stacks", "apt-get install bpftrace", bpftrace, ready="up",
             attach=[bpftrace or "", "-B", "line", "-e", OFF_CPU]),
        Tool("bpftrace, system calls", "apt-get install bpftrace", bpftrace, ready="up",
             attach=[bpftrace or "", "-B", "line", "-e", SYSCALLS]),
        Tool("bcc syscount -L", "apt-get install bpfcc-tools", syscount, ready="Tracing syscalls",
             attach=[syscount or "", "-L", "-p", "PID"]),
        Tool("perf trace -s", "apt-get install linux-perf", perf, slow=20,
             prefix=[perf or "", "trace", "-s", "-o", "/dev/null", "--"]),
        Tool("strace -f -T", "apt-get install strace", strace, slow=50,
             prefix=[strace or "", "-f", "-T", "-o", "/dev/null", "--"]),
    ]  # fmt: skip


class Observed(NamedTuple):
    """A program under a tool that is ready. ``process`` has its standard input and output."""

    process: subprocess.Popen[str]
    tool: subprocess.Popen[str] | None
    startup_s: float

    def go(self) -> None:
        """Let the program begin: it waits for a line."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def memory(self, command: Sequence[str]) -> int:
        """Resident bytes of the tool's processes, the program that runs ``command`` left out."""
        total = 0
        root = psutil.Process((self.tool or self.process).pid)
        left_out: set[int] = set()
        for process in [root, *root.children(recursive=True)]:  # parents come first
            with contextlib.suppress(psutil.Error):
                if process.cmdline() == list(command) or process.ppid() in left_out:
                    left_out.add(process.pid)
                else:
                    total += process.memory_info().rss
        return total


@contextmanager
def under(peer: Tool | None, command: Sequence[str], log: Path) -> Iterator[Observed]:
    """Run a program that says ``up`` and waits for a line, bare or under a tool; ends both.

    Raises OSError when the tool ends or is not ready in time; ``log`` has what it said.
    """
    began = time.monotonic()
    prefix = peer.prefix if peer else ()
    with (
        log.open("w") as said,
        subprocess.Popen(
            [*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        joined = None
        try:
            assert process.stdout
            if (line := process.stdout.readline()) != "up\n":
                raise OSError(f"it said {line!r}")
            startup = time.monotonic() - began
            if peer is not None and peer.attach:
                began = time.monotonic()
                joined = _join(peer, process.pid, log.with_suffix(".tool.log"))
                startup = time.monotonic() - began
            yield Observed(process, joined, startup)
        finally:
            if joined is not None:
                _end(joined, signal.SIGINT)
            assert process.stdin
            with contextlib.suppress(OSError):
                process.stdin.close()
            _end(process, signal.SIGTERM)


def _join(peer: Tool, pid: int, log: Path) -> subprocess.Popen[str]:
    # bcc's own tools want kernel headers, and get ours that are made from BTF.
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if peer.package.endswith("bpfcc-tools"):
        env["BCC_KERNEL_SOURCE"] = str(_headers())
    with log.open("w") as out:
        joined = subprocess.Popen(
            [word.replace("PID", str(pid)) for word in peer.attach],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
            env=env,
        )
    deadline = time.monotonic() + READY_S
    while peer.ready not in log.read_text(errors="replace"):
        if joined.poll() is not None or time.monotonic() > deadline:
            _end(joined, signal.SIGKILL)
            raise OSError(f"{peer.name} ended before it was ready, or was not in time: see {log}")
        time.sleep(0.005)
    return joined


def _end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Give it time to end by itself, then ask, then kill."""
    for patience, ask in ((1.0 if number is signal.SIGTERM else 0.0, number), (20.0, signal.SIGKILL)):
        try:
            process.wait(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(ask)
    process.wait()
