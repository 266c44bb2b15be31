"""A kernel that hides some switches, or shows them late: what they ended, or began, is known all the same."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from harness import Probe, Program, Runner, kernel_of
from whyidle_probes.events import Stat, Wait
from whyidle_probes.loader import ProbeConfig, load_probes
from whyidle_probes.syscalls import syscall_name

pytestmark = pytest.mark.bpf

TURNS, SLEEP_S = 60, 0.004
RARE = 2  # of a hundred switches that the kernel itself hides: then two waits may be told as one
SLEEPER = f"""
import json, time
slept = 0.0
began, ran = time.monotonic(), time.thread_time()
for _ in range({TURNS}):
    before = time.monotonic()
    time.sleep({SLEEP_S})
    slept += time.monotonic() - before
    until = time.thread_time() + 0.002
    while time.thread_time() < until: pass
print(json.dumps([time.monotonic() - began, slept, time.thread_time() - ran]), flush=True)
"""


ANSWERS, ANSWER_S = 12, 0.02
CLIENT = f"""
import socket
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    for _ in range({ANSWERS}):
        connection.sendall(b"x")
        connection.recv(1)
"""


@pytest.fixture
def blind() -> Iterator[Probe]:
    """The probes, which do not see every third switch to a thread."""
    yield from _probe(ProbeConfig(hide_switches=3))


@pytest.fixture
def blind_to_leaving() -> Iterator[Probe]:
    """The probes, which do not see every third switch from a thread."""
    yield from _probe(ProbeConfig(hide_leaving=3))


@pytest.fixture
def blind_to_runs() -> Iterator[Probe]:
    """The probes, which see neither switch of every third run on a CPU."""
    yield from _probe(ProbeConfig(hide_runs=3))


def _probe(config: ProbeConfig) -> Iterator[Probe]:
    with kernel_of(load_probes(config)) as (kernel, seen):
        yield Probe(kernel, seen, 1)


def test_what_a_hidden_switch_ended_is_known(blind: Probe, programs: list[Program]) -> None:
    """Sleep stays sleep, and the time on a CPU is the scheduler's own: a third of them would be missing."""
    program = Runner(blind, programs)(SLEEPER)
    _, slept, ran = json.loads(program.line())
    thread = blind.exit_of(program.pid)
    hidden = blind.kernel.stat(Stat.SWITCHES_HIDDEN)
    assert hidden >= TURNS / 3
    told = {state: thread.ns[state] / 1e9 for state in (Wait.RUNNING, Wait.SLEEP, Wait.UNKNOWN)}
    # A sleep lasts no less than was asked for (its timer starts microseconds before the switch), and the
    # program's own clock also counts the wait for a CPU after it.
    assert told[Wait.SLEEP] <= slept
    assert told[Wait.SLEEP] + told[Wait.UNKNOWN] >= 0.99 * TURNS * SLEEP_S
    assert thread.count[Wait.UNKNOWN] <= RARE
    # The start of the interpreter and its end are running too, outside of the program's account.
    assert told[Wait.RUNNING] >= 0.99 * ran
    assert sum(thread.ns) == thread.end_ns - thread.first_ns
    assert TURNS - RARE <= thread.count[Wait.SLEEP] <= TURNS
    slices = [s for s in blind.slices(program.pid) if s.state == Wait.SLEEP]
    assert len(slices) == thread.count[Wait.SLEEP]
    assert sum(s.blocked_ns for s in slices) == thread.ns[Wait.SLEEP]


def test_a_sleep_whose_begin_was_hidden_is_known(blind_to_leaving: Probe, programs: list[Program]) -> None:
    """For how long it ran the scheduler knows, and what it sleeps in can be seen when it is woken."""
    program = Runner(blind_to_leaving, programs)(SLEEPER)
    began, slept, ran = json.loads(program.line())
    thread = blind_to_leaving.exit_of(program.pid)
    assert blind_to_leaving.kernel.stat(Stat.SWITCHES_HIDDEN) >= TURNS / 4
    told = {state: thread.ns[state] / 1e9 for state in (Wait.RUNNING, Wait.SLEEP)}
    # What a hypervisor took of a run that was not seen to end counts as sleep.
    took = max(0.0, began - slept - ran)
    assert 0.99 * (TURNS - RARE) * SLEEP_S <= told[Wait.SLEEP] <= slept + took
    # Where it was not woken, it waited for a CPU.
    assert thread.count[Wait.UNKNOWN] <= RARE
    # The start of the interpreter and its end are running too, outside of the program's account.
    assert told[Wait.RUNNING] >= 0.99 * ran
    assert sum(thread.ns) == thread.end_ns - thread.first_ns
    slices = [s for s in blind_to_leaving.slices(program.pid) if s.state == Wait.SLEEP]
    assert TURNS - RARE <= len(slices) <= TURNS
    assert {syscall_name(s.syscall) for s in slices} == {"clock_nanosleep"}


def test_who_is_waited_for_is_known_though_the_begin_was_hidden(
    blind_to_leaving: Probe, programs: list[Program]
) -> None:
    """Of each answer, the peer and all of its time."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(1):
                time.sleep(ANSWER_S)
                connection.sendall(b"y")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=serve)
        server.start()
        program = Runner(blind_to_leaving, programs)(CLIENT, str(port))
        server.join()
    assert blind_to_leaving.kernel.stat(Stat.SWITCHES_HIDDEN) >= ANSWERS / 4
    slices = [s for s in blind_to_leaving.slices(program.pid) if s.state == Wait.TCP]
    assert ANSWERS - RARE <= len(slices) <= ANSWERS
    assert {s.peer.remote_port for s in slices} == {port}
    assert all(s.blocked_ns >= 0.9e9 * ANSWER_S for s in slices)


def test_a_run_of_which_no_switch_was_seen_is_no_wait(blind_to_runs: Probe, programs: list[Program]) -> None:
    """Asleep, a run that nobody saw, off the CPU for what nobody saw begin: three intervals, not one."""
    program = Runner(blind_to_runs, programs)(SLEEPER)
    _, slept, ran = json.loads(program.line())
    thread = blind_to_runs.exit_of(program.pid)
    assert blind_to_runs.kernel.stat(Stat.SWITCHES_HIDDEN) >= TURNS / 6
    told = {state: thread.ns[state] / 1e9 for state in (Wait.RUNNING, Wait.SLEEP, Wait.UNKNOWN)}
    assert told[Wait.SLEEP] <= slept
    assert told[Wait.SLEEP] + told[Wait.UNKNOWN] >= 0.99 * TURNS * SLEEP_S
    assert told[Wait.UNKNOWN] >= TURNS / 6 * SLEEP_S
    assert told[Wait.RUNNING] >= 0.99 * ran
    assert sum(thread.ns) == thread.end_ns - thread.first_ns
    slices = [s for s in blind_to_runs.slices(program.pid) if s.state in (Wait.SLEEP, Wait.UNKNOWN)]
    assert sum(s.blocked_ns for s in slices) >= 0.99e9 * TURNS * SLEEP_S


EXCHANGES = 300
HURRIED = f"""
import json, os, signal, struct, time
first, second = sorted(os.sched_getaffinity(0))[:2]
to, back = os.pipe(), os.pipe()
busy = os.fork()
if busy == 0:
    os.sched_setaffinity(0, {{first}})
    signal.alarm(60)  # whatever becomes of this test
    while True: pass
answering = os.fork()
if answering == 0:
    os.sched_setaffinity(0, {{second}})
    signal.alarm(60)
    os.set_blocking(to[0], False)
    for _ in range({EXCHANGES}):
        while True:
            try:
                os.read(to[0], 1)
                break
            except BlockingIOError:
                pass
        os.write(back[1], struct.pack("d", time.monotonic()))
    os._exit(0)
os.close(back[1])
os.sched_setaffinity(0, {{first}})
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # who is woken waits for the busy one
os.nice(19)
answers, began = 0.0, time.monotonic()
for _ in range({EXCHANGES}):
    before = time.monotonic()
    os.write(to[1], b"x")
    answers += struct.unpack("d", os.read(back[0], 8))[0] - before
took = time.monotonic() - began
os.kill(busy, signal.SIGKILL)
os.waitpid(busy, 0)
os.waitpid(answering, 0)
print(json.dumps([answers, took]), flush=True)
"""


@pytest.fixture
def slow_to_leave() -> Iterator[Probe]:
    """The probes, with some ten microseconds between a thread's leaving its queue and what is seen of it."""
    yield from _probe(ProbeConfig(slow_leaving=1000))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_who_is_woken_on_the_way_to_sleep_waits_for_a_cpu(
    slow_to_leave: Probe, programs: list[Program]
) -> None:
    """An answer that comes at once, from another CPU, is no long wait for an answer."""
    program = Runner(slow_to_leave, programs)(HURRIED)
    answers, took = json.loads(program.line())
    thread = slow_to_leave.exit_of(program.pid)
    assert thread.count[Wait.PIPE] >= EXCHANGES / 2
    # Nearly all of the other time it waited for the CPU, woken before it was seen to sleep.
    assert thread.ns[Wait.PIPE] / 1e9 < answers + (took - answers) / 10
    assert thread.ns[Wait.RUNQUEUE] / 1e9 > (took - answers) / 2
