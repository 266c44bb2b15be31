"""Throttling as kernels before 6.18 tell it, by run queue, beside what the threads themselves say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Probe, Program, kernel_of, throttled_s, wait_until
from whyidle_daemon import libbpf
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event, Slice, Thread, Wait
from whyidle_probes.loader import ProbeConfig, load_probes

pytestmark = pytest.mark.bpf

NS = 1e9
RUN_TIME = 0  # of bpf_enable_stats
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

ONE = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
end = time.process_time() + 0.04
while time.process_time() < end: pass
"""
# The sleeper is woken by a timer, mostly while the other one has used up the quota of both.
SLEEPER = """
import os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
end = time.process_time() + 0.04
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
end = time.process_time() + 0.03
while time.process_time() < end: pass
"""
# Nobody limits these: three processes on one CPU.
CROWDED = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.stdin.readline()
pids = [os.fork() for _ in range(2)]
end = time.process_time() + 0.04
while time.process_time() < end: pass
if all(pids):
    for pid in pids: os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def by_queue() -> Iterator[tuple[Kernel, list[Event]]]:
    """The probes as a kernel before 6.18 gets them."""
    probes = load_probes(ProbeConfig(without=("WI_TASK_THROTTLED",)))
    if probes.throttling != "queue":
        probes.close()
        pytest.skip("this kernel limits no cgroup's CPU time")
    with kernel_of(probes) as kernel_and_seen:
        yield kernel_and_seen


@pytest.fixture
def throttled_group(throttled_group: Path) -> Path:
    """So small a quota that it is used up also where others want the CPU: 5 of 100 ms."""
    quota = throttled_group / "cpu.cfs_quota_us"
    if quota.exists():
        quota.write_text("5000")
    else:
        (throttled_group / "cpu.max").write_text("5000 100000")
    return throttled_group


@pytest.fixture
def observed(
    probe: Probe, by_queue: tuple[Kernel, list[Event]], programs: list[Program]
) -> Iterator[Observed]:
    """Runs a program under both."""
    old = Probe(*by_queue, probe.number)
    counting = libbpf.library().bpf_enable_stats(RUN_TIME)  # until it is closed
    assert counting >= 0
    yield Observed(old, probe, programs)
    os.close(counting)
    old.kernel.untrack(probe.number)
    by_queue[1].clear()


class Observed:
    """One run: what the run queues said, and what the threads say."""

    def __init__(self, old: Probe, new: Probe, programs: list[Program]) -> None:
        self.old, self.new, self._programs = old, new, programs
        self.ran_ns = 0  # the programs of both, in the run

    def __call__(self, code: str, group: Path | None = None) -> tuple[list[Thread], list[Thread]]:
        """The threads that it had, by number, as either saw them."""
        program = Program(code)
        self._programs.append(program)
        before_ns = self._both_ran_ns()
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
        self.ran_ns = self._both_ran_ns() - before_ns
        return old, new

    def _both_ran_ns(self) -> int:
        return self.old.kernel.run_ns() + self.new.kernel.run_ns()

    def check(self, old: list[Thread], new: list[Thread]) -> None:
        """What both say of each thread fits together, however busy this machine is.

        What a thread says is throttling, its queue says too. The queue may say more: from 6.18 on a thread in
        a throttled queue still runs up to its return to user mode, and may have to wait for the CPU before
        that. Each reads the clock when its program runs, one after the other at the same event: they may
        differ by what the programs took, which is next to nothing but in an emulated machine.
        """
        for by_queue, by_thread in zip(old, new, strict=True):
            assert sum(by_queue.ns) == by_queue.end_ns - by_queue.first_ns
            said, known = by_queue.ns[Wait.THROTTLED], by_thread.ns[Wait.THROTTLED]
            off = ns_of([by_thread], Wait.THROTTLED, Wait.RUNQUEUE)
            may_differ = max(0.01 * off, self.ran_ns)
            assert ns_of([by_queue], Wait.THROTTLED, Wait.RUNQUEUE) == pytest.approx(off, abs=may_differ)
            assert known - may_differ <= said <= off + may_differ


def ns_of(threads: list[Thread], *waits: Wait) -> int:
    return sum(thread.ns[wait] for thread in threads for wait in waits)


def test_the_one_who_uses_up_the_quota(observed: Observed, throttled_group: Path) -> None:
    """As long as the group's account says, or longer where somebody else had the CPU at the refill."""
    old, new = observed(ONE, throttled_group)
    truth = throttled_s(throttled_group)
    assert truth > 0.2
    observed.check(old, new)
    assert ns_of(old, Wait.THROTTLED) / NS > truth - 2 * TICK_S * (old[0].count[Wait.THROTTLED] + 1)


def test_who_stands_in_the_queue_meanwhile(observed: Observed, throttled_group: Path) -> None:
    """Two that share a quota: both are throttled, not only the one who uses up the rest of it."""
    old, new = observed(TWO, throttled_group)
    truth = throttled_s(throttled_group)
    assert (len(old), truth > 0.2) == (2, True)
    observed.check(old, new)
    assert min(ns_of([thread], Wait.THROTTLED) for thread in old) / NS > truth / 2


def test_who_is_woken_into_a_throttled_queue(observed: Observed, throttled_group: Path) -> None:
    """Its wait for the CPU is throttling, an interval of its own after the sleep."""
    old, new = observed(SLEEPER, throttled_group)
    sleeper = next(thread for thread in old if thread.tid != thread.pid)
    assert sleeper.ns[Wait.THROTTLED] > 0.1 * NS
    observed.check(old, new)
    held = [
        slice_.blocked_ns
        for slice_ in observed.old.events()
        if isinstance(slice_, Slice) and slice_.tid == sleeper.tid and slice_.state == Wait.THROTTLED
    ]
    assert sum(held) == pytest.approx(sleeper.ns[Wait.THROTTLED], rel=0.02)


def test_a_crowd_without_a_limit_is_not_throttled(observed: Observed) -> None:
    """Waiting for a CPU that others have is run-queue wait and nothing else."""
    old, new = observed(CROWDED)
    assert ns_of(old, Wait.RUNQUEUE) > 0.05 * NS
    assert ns_of(old, Wait.THROTTLED) == ns_of(new, Wait.THROTTLED) == 0
    observed.check(old, new)
