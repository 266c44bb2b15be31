"""Throttling as kernels before 6.18 tell it, by run queue, beside what the threads themselves say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Probe, Program, throttled_s, wait_until
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event, Slice, Thread, Wait
from whyidle_probes.loader import ProbeConfig, load_probes

pytestmark = pytest.mark.bpf

NS = 1e9
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

ONE = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
end = time.process_time() + 0.15
while time.process_time() < end: pass
"""
# The sleeper is woken by a timer, mostly while the other one has used up the quota of both.
SLEEPER = """
import os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
end = time.process_time() + 0.15
def sleep():
    while time.process_time() < end: time.sleep(0.005)
thread = threading.Thread(target=sleep)
thread.start()
while time.process_time() < end: os.getppid()
thread.join()
"""
# Who does not run when the quota is used up stands in the queue.
TWO = """
import os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
os.fork()
end = time.process_time() + 0.1
while time.process_time() < end: pass
"""
# Nobody limits these: three processes on one CPU.
CROWDED = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
pids = [os.fork() for _ in range(2)]
end = time.process_time() + 0.15
while time.process_time() < end: pass
if all(pids):
    for pid in pids: os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def by_queue() -> Iterator[tuple[Kernel, list[Event]]]:
    """The probes as a kernel before 6.18 gets them."""
    seen: list[Event] = []
    probes = load_probes(ProbeConfig(without=("WI_TASK_THROTTLED",)))
    if probes.throttling != "queue":
        probes.close()
        pytest.skip("this kernel limits no cgroup's CPU time")
    kernel = Kernel(probes, seen.append)
    yield kernel, seen
    kernel.close()


@pytest.fixture
def observed(
    probe: Probe, by_queue: tuple[Kernel, list[Event]], programs: list[Program]
) -> Iterator[Observed]:
    """Runs a program under both."""
    old = Probe(*by_queue, probe.number)
    yield Observed(old, probe, programs)
    old.kernel.untrack(probe.number)
    by_queue[1].clear()


class Observed:
    """One run: what the run queues said, and what the threads say."""

    def __init__(self, old: Probe, new: Probe, programs: list[Program]) -> None:
        self.old, self.new, self._programs = old, new, programs

    def __call__(self, code: str, group: Path | None = None) -> tuple[list[Thread], list[Thread]]:
        """The threads that it had, by number, as either saw them."""
        program = Program(code)
        self._programs.append(program)
        for probe in (self.old, self.new):
            probe.track(program.pid)
        if group is not None:
            (group / "cgroup.procs").write_text(str(program.pid))
        program.go().go()
        assert program.join() == 0
        for probe in (self.old, self.new):
            probe.exit_of(program.pid)
        if group is not None:
            wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to empty")
        old, new = (
            sorted((e for e in probe.events() if isinstance(e, Thread)), key=lambda thread: thread.tid)
            for probe in (self.old, self.new)
        )
        assert [thread.tid for thread in old] == [thread.tid for thread in new]
        return old, new


def ns_of(threads: list[Thread], *waits: Wait) -> int:
    return sum(thread.ns[wait] for thread in threads for wait in waits)


def test_the_one_who_uses_up_the_quota(observed: Observed, throttled_group: Path) -> None:
    """The same seconds as by the thread's own word, and as the group's account has them."""
    old, new = observed(ONE, throttled_group)
    periods = old[0].count[Wait.THROTTLED]
    truth = throttled_s(throttled_group)
    assert truth > 0.2
    assert ns_of(old, Wait.THROTTLED) / NS == pytest.approx(truth, abs=2 * TICK_S * (periods + 1))
    assert ns_of(old, Wait.THROTTLED) == pytest.approx(ns_of(new, Wait.THROTTLED), rel=0.02)


def test_who_stands_in_the_queue_meanwhile(observed: Observed, throttled_group: Path) -> None:
    """Both of two that share a quota are throttled, while both live, as long as the group's account says."""
    old, new = observed(TWO, throttled_group)
    truth = throttled_s(throttled_group)
    assert len(old) == 2
    for by_queue, by_thread in zip(old, new, strict=True):
        ns = by_queue.ns[Wait.THROTTLED]
        assert truth / 2 < ns / NS < truth + 2 * TICK_S * (by_queue.count[Wait.THROTTLED] + 1)
        assert ns == pytest.approx(by_thread.ns[Wait.THROTTLED], rel=0.05)


def test_who_is_woken_into_a_throttled_queue(observed: Observed, throttled_group: Path) -> None:
    """Its wait for the CPU is throttling, an interval of its own after the sleep."""
    old, new = observed(SLEEPER, throttled_group)
    sleeper = next(thread for thread in old if thread.tid != thread.pid)
    assert sleeper.ns[Wait.THROTTLED] > 0.1 * NS
    # 6.18 lets the thread run up to its return to user mode first: some microseconds each time.
    assert ns_of(old, Wait.THROTTLED) == pytest.approx(ns_of(new, Wait.THROTTLED), rel=0.05)
    held = [
        e
        for e in observed.old.events()
        if isinstance(e, Slice) and e.tid == sleeper.tid and e.state == Wait.THROTTLED
    ]
    assert sum(slice_.blocked_ns for slice_ in held) == pytest.approx(sleeper.ns[Wait.THROTTLED], rel=0.02)
    for probe, threads in ((observed.old, old), (observed.new, new)):
        for thread in threads:
            assert sum(thread.ns) == thread.end_ns - thread.first_ns, probe


def test_a_crowd_without_a_limit_is_not_throttled(observed: Observed) -> None:
    """Waiting for a CPU that others have is run-queue wait and nothing else."""
    old, new = observed(CROWDED)
    assert ns_of(old, Wait.RUNQUEUE) > 0.2 * NS
    assert ns_of(old, Wait.THROTTLED) == ns_of(new, Wait.THROTTLED) == 0
    assert ns_of(old, Wait.RUNQUEUE) == pytest.approx(ns_of(new, Wait.RUNQUEUE), rel=0.01)
