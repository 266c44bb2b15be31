"""States that need more than a syscall number: the GIL, CPU bandwidth, names that are looked up."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness import Program, throttled_s, wait_until
from harness_cli import load, whyidle
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import StackReader
from whyidle_daemon.sampler import RUNTIME_BYTES
from whyidle_probes.events import NameLookup, Wait

pytestmark = pytest.mark.bpf

NS = 1e9
BUSY = """
import threading, time
print("up", flush=True)
sys.stdin.readline()
def work():
    end = time.monotonic() + 0.5
    while time.monotonic() < end: sum(range(1000))
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
"""


def test_waiting_for_the_gil_is_not_a_lock(probe, programs):
    """Three busy threads of one interpreter: two of them wait for the GIL at any time, and not for a lock."""
    program = Program(BUSY)
    programs.append(program)
    probe.track(program.pid)
    assert program.go().line() == "up"
    with StackReader(program.pid) as reader:
        runtime, minor = reader.python.runtime, reader.python.version[1]
    probe.kernel.set_gil(program.pid, runtime, runtime + RUNTIME_BYTES[minor])
    program.go()
    assert program.join() == 0
    probe.exit_of(program.pid)
    workers = [t for t in probe.exits(program.pid) if t.tid != program.pid]
    assert len(workers) == 3
    gil = sum(t.ns[Wait.GIL] for t in workers)
    lock = sum(t.ns[Wait.FUTEX] for t in workers)
    running = sum(t.ns[Wait.RUNNING] for t in workers)
    # One interpreter runs one thread at a time: of three lives, what is not running is waiting for it.
    wall = sum(t.end_ns - t.first_ns for t in workers)
    assert gil + running + sum(t.ns[Wait.RUNQUEUE] for t in workers) == pytest.approx(wall, rel=0.02)
    assert gil > wall / 3
    assert lock < wall * 0.02


def test_throttling_is_told_from_waiting_for_a_cpu(run_observed, throttled_group):
    """A thread whose cgroup has used up its bandwidth is throttled, as long as the cgroup's account says."""
    if not _has_throttled_flag():
        pytest.skip("before Linux 6.18 a task does not say that it is throttled")
    program = run_observed.start("""
        import time
        sys.stdin.readline()
        end = time.process_time() + 0.15
        while time.process_time() < end: pass
    """)
    (throttled_group / "cgroup.procs").write_text(str(program.pid))
    before = throttled_s(throttled_group)
    program.go().go()
    assert program.join() == 0
    thread = run_observed.probe.exit_of(program.pid)
    truth = throttled_s(throttled_group) - before
    wait_until(lambda: not (throttled_group / "cgroup.procs").read_text(), "the group to empty")
    assert truth > 0.2
    # The account runs from when the group runs dry to the refill; the thread is seen from when it stops to
    # when it runs again: each of the few periods differs by a scheduler tick at either end.
    periods = thread.count[Wait.THROTTLED]
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert thread.ns[Wait.THROTTLED] / NS == pytest.approx(truth, abs=2 * tick * (periods + 1))


def _has_throttled_flag() -> bool:
    return b"\0throttled\0" in Path("/sys/kernel/btf/vmlinux").read_bytes()


def test_lookups_are_seen_with_their_addresses(probe, programs):
    """getaddrinfo tells which name was asked for, how it ended, and which addresses belong to it."""
    program = Program("""
        import socket
        print("up", flush=True)
        sys.stdin.readline()
        socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        try: socket.getaddrinfo("no.such.name.invalid", 80)
        except OSError: pass
    """)
    programs.append(program)
    probe.track(program.pid)
    assert program.go().line() == "up"
    libraries = EngineLibraries(probe.kernel.attach_functions, Proc())
    try:
        libraries.scan(program.pid)
        program.go()
        assert program.join() == 0
        probe.exit_of(program.pid)
        lookups = [e for e in probe.events() if isinstance(e, NameLookup)]
    finally:
        libraries.close()
    assert [lookup.host for lookup in lookups] == ["localhost", "no.such.name.invalid"]
    found, missing = lookups
    assert found.status == 0
    assert missing.status != 0
    assert missing.addresses == ()
    addresses = {(family, raw[:4] if family == 2 else raw) for family, raw in found.addresses}
    assert addresses & {(2, bytes([127, 0, 0, 1])), (10, bytes(15) + b"\x01")}
    assert found.start_ns < found.end_ns


def test_names_reach_the_report(tmp_path: Path) -> None:
    """A GIL fight shows as gil in the report of a plain run, with nothing told to the tool."""
    code = "import sys, threading, time\n" + BUSY.replace(
        'print("up", flush=True)\nsys.stdin.readline()', "time.sleep(1)"
    )
    done = whyidle("run", "--json", tmp_path / "r.json", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    gil = sum(t["states"].get("gil", 0) for t in report["threads"])
    lock = sum(t["states"].get("lock", 0) for t in report["threads"] if t["tid"] != report["target"]["pid"])
    assert gil > 0.3
    assert lock < 0.1 * gil
