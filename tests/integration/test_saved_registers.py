"""Where a thread's saved registers are, found as on kernels before 5.15, beside what the helper says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import SELF_SERVED, Probe, Program
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event, Wait
from whyidle_probes.loader import ProbeConfig, load_probes
from whyidle_probes.syscalls import syscall_name

pytestmark = pytest.mark.bpf

WAITS = """
import os, select, subprocess
for _ in range(3):
    c.send(b"x"); c.recv(1)
    c.send(b"x"); select.select([c], [], []); c.recv(1)
    c.send(b"x"); p = select.poll(); p.register(c, 1); p.poll(); c.recv(1)
time.sleep(0.05)
subprocess.run(["/bin/sleep", "0.05"])
lock = threading.Lock(); lock.acquire()
threading.Timer(0.05, lock.release).start()
lock.acquire()
"""


@pytest.fixture
def searching(probe: Probe) -> Iterator[Probe]:
    """The probes as a kernel gets them that has no such helper."""
    seen: list[Event] = []
    kernel = Kernel(load_probes(ProbeConfig(without=("WI_TASK_PT_REGS",))), seen.append)
    yield Probe(kernel, seen, probe.number)
    kernel.close()


def long_waits(probe: Probe, program: Program) -> list[tuple[object, ...]]:
    """What the main thread waited for, and which call woke it, of all waits of 20 ms."""
    found = [s for s in probe.slices(program.pid) if s.tid == program.pid and s.blocked_ns >= 20_000_000]
    return [(s.state, s.syscall, s.fd, s.arg, s.peer, s.waker_tid, s.waker_syscall) for s in found]


def test_both_find_the_same(probe: Probe, searching: Probe, programs: list[Program]) -> None:
    """System call, descriptor, argument, peer and the waker's call of every wait are the same."""
    program = Program(SELF_SERVED + WAITS)
    programs.append(program)
    for each in (probe, searching):
        each.track(program.pid)
    assert program.go().join() == 0
    for each in (probe, searching):
        each.exit_of(program.pid)
    told, found = long_waits(probe, program), long_waits(searching, program)
    assert found == told
    states = {state for state, *_ in told}
    assert {Wait.TCP, Wait.SLEEP, Wait.CHILD, Wait.FUTEX} <= states
    calls = {syscall_name(nr) for nr in (s.syscall for s in searching.slices(program.pid)) if nr != 0xFFFF}
    assert {"recvfrom", "poll", "futex"} <= calls
