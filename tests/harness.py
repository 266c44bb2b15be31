"""Small programs to observe, the probes that observe them, and waiting for conditions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event, Slice, Thread
from whyidle_probes.loader import Probes

PATIENCE = float(os.environ.get("WHYIDLE_PATIENCE", "1"))
"""How many times longer than on a real machine a test waits before it calls something broken."""


def wait_until(
    condition: Callable[[], object], what: str, timeout_s: float = 30.0, every_s: float = 0.005
) -> None:
    """Wait for a condition, never for luck; the time-out is only there to end a broken test.

    A host that stands still for longer than a second counts as that: the others have not run either.
    """
    left_s = timeout_s * PATIENCE
    before = time.monotonic()
    while not condition():
        now = time.monotonic()
        left_s -= min(now - before, 1.0)
        before = now
        if left_s < 0:
            raise AssertionError(f"waited {timeout_s * PATIENCE} s for {what}")
        time.sleep(every_s)


SELF_SERVED = """
import socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
def serve():
    c, _ = server.accept()
    while c.recv(64):
        time.sleep(0.05); c.send(b"x")
threading.Thread(target=serve, daemon=True).start()
c = socket.create_connection(server.getsockname())
"""
"""The start of a program: ``c`` is connected to a thread of its own that answers after 50 ms."""

FLOODED = """
import os, socket, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
def udp():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made
to, by = udp(), udp()
by.connect(to.getsockname()), to.connect(by.getsockname())
def flood():
    while True: by.send(b"x"), to.recv(9)
threading.Thread(target=flood, daemon=True).start()
"""
"""The start of a program: messages for others arrive without end on the CPU of whatever it does next."""


class Program:
    """A Python program that starts when told, and ends by itself or is killed by its own PID."""

    def __init__(self, code: str, *arguments: str) -> None:
        source = "import sys\nsys.stdin.readline()\n" + textwrap.dedent(code)
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def go(self) -> Self:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def join(self) -> int:
        return self.process.wait(timeout=60 * PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


class Probe:
    """The kernel side, with what it said of one target."""

    def __init__(self, kernel: Kernel, seen: list[Event], number: int) -> None:
        self.kernel, self.seen, self.number = kernel, seen, number

    def track(self, *pids: int) -> None:
        self.kernel.track(pids, self.number)

    def events(self) -> list[Event]:
        while self.kernel.consume(10_000):
            pass
        return [e for e in self.seen if getattr(e, "target", None) == self.number]

    def slices(self, pid: int) -> list[Slice]:
        return [e for e in self.events() if isinstance(e, Slice) and e.pid == pid]

    def exits(self, pid: int) -> list[Thread]:
        """Totals of the threads of a process that has ended."""
        return [e for e in self.events() if isinstance(e, Thread) and e.pid == pid]

    def exit_of(self, tid: int) -> Thread:
        """The main thread's exit is recorded at its last switch, a moment after wait(2) returns."""
        wait_until(
            lambda: [e for e in self.events() if isinstance(e, Thread) and e.tid == tid], "the exit record"
        )
        return next(e for e in self.events() if isinstance(e, Thread) and e.tid == tid)


@contextmanager
def kernel_of(probes: Probes) -> Iterator[tuple[Kernel, list[Event]]]:
    """The kernel side with these probes, which it closes, and the list that its events go to."""
    seen: list[Event] = []
    kernel = Kernel(probes, seen.append)
    try:
        yield kernel, seen
    finally:
        kernel.close()


class Runner:
    """Runs a program observed from its first line to its end."""

    def __init__(self, probe: Probe, programs: list[Program]) -> None:
        self.probe, self._programs = probe, programs

    def start(self, code: str, *arguments: str) -> Program:
        program = Program(code, *arguments)
        self._programs.append(program)
        self.probe.track(program.pid)
        return program

    def __call__(self, code: str, *arguments: str, status: int = 0) -> Program:
        program = self.start(code, *arguments).go()
        assert program.join() == status
        self.probe.exit_of(program.pid)
        return program


def throttled_s(group: Path) -> float:
    """By the kernel's own account of the group."""
    words = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return (
        int(words["throttled_time"]) / 1e9
        if "throttled_time" in words
        else int(words["throttled_usec"]) / 1e6
    )
