"""An observation that is cut while everything goes on: the part after the cut is right, live and replayed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_schema

from harness import Program, wait_until
from simulators.cuda import JOB, build_libcuda
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_daemon.proc import Proc
from whyidle_daemon.recording.output import Output, wait_for_all
from whyidle_daemon.recording.reader import report
from whyidle_daemon.target import Target
from whyidle_daemon.targets import Targets
from whyidle_probes.loader import load_probes

pytestmark = pytest.mark.bpf

BUSY = """
import socket, subprocess, threading, time
a, b = socket.socketpair()
def answer():
    while (data := b.recv(64)):
        time.sleep(0.02)
        b.send(data)
threading.Thread(target=answer, daemon=True).start()
print("up", flush=True)
while True:
    a.send(b"x"); a.recv(64)
    sum(range(20000))
"""


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    found = Targets(lambda on_event: Kernel(load_probes(), on_event), Proc())
    yield found
    found.libraries.close()
    found.kernel.close()


def slices(targets: Targets, target: Target, count: int) -> None:
    """Wait until so many more slices were told."""
    seen: list[object] = []
    target.wait_listeners.append(seen.append)

    def enough() -> bool:
        targets.kernel.consume(1000)
        target.sample_stacks(0.25)
        return len(seen) >= count

    wait_until(enough, f"{count} events", every_s=0.02)
    target.wait_listeners.clear()


def test_live_and_replayed_after_a_cut(targets: Targets, programs: list[Program], tmp_path: Path) -> None:
    """Both parts have the same report from the file as live, and each obeys the contract by itself."""
    program = Program(BUSY)
    programs.append(program)
    program.go().line()
    target, _, _ = targets.start((program.pid,), ("busy",), None, Output(str(tmp_path / "a")))
    slices(targets, target, 30)
    before = target.report()
    target.renew(Output(str(tmp_path / "b")))
    cut_ns = target.observation.start_ns
    wait_until(lambda: _whole(tmp_path / "a"), "the first part on the disk")
    slices(targets, target, 30)
    live = target.finish(None)
    ended_ns = monotonic_ns()
    targets.stop(target)
    wait_for_all(10.0)  # for the part nobody waits otherwise
    first, second = report(tmp_path / "a"), report(tmp_path / "b")
    assert first.pop("recording") == second.pop("recording") == {"complete": True, "reason": None}
    assert second == live
    for part in (first, second):
        report_schema.check(part)
    assert first["target"]["duration_s"] >= before["target"]["duration_s"]
    main = next(t for t in second["threads"] if t["tid"] == program.pid)
    assert main["wall_s"] <= (ended_ns - cut_ns) / 1e9
    assert main["wall_s"] == pytest.approx(second["target"]["duration_s"], rel=1e-3)
    assert main["states"]["local_ipc"] > 0.5 * main["wall_s"]
    groups = [f for f in second["findings"] if f["pid"] == program.pid and f["blocked_s"]]
    assert all(f["blocked_s"] <= main["wall_s"] * 1.001 for f in groups)


def _whole(path: Path) -> bool:
    try:
        return bool(report(path)["recording"]["complete"])
    except Exception:  # it is being written
        return False


def test_a_wait_over_several_cuts_keeps_its_line(
    targets: Targets, programs: list[Program], tmp_path: Path
) -> None:
    """A hang that lasts is in every part for as long as it lasted there, with its function."""
    code = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
        "c = socket.create_connection(s.getsockname())\n"
        "def hang():\n    c.recv(1)\nprint('up', flush=True)\nhang()"
    )
    program = Program(code)
    programs.append(program)
    program.go().line()
    target, _, _ = targets.start((program.pid,), ("hang",))
    wait_until(lambda: Path(f"/proc/{program.pid}/wchan").read_text() != "0", "it to hang")

    def named() -> bool:
        target.sample_stacks(0.25)
        return any(f["function"] == "hang" for f in target.report()["findings"])

    wait_until(named, "its line", every_s=0.05)
    for _ in range(3):
        target.renew(None)
        # Nothing is read again: what is known of the wait goes on over the cut.
        wait_until(lambda: target.report()["findings"], "it to be worth a finding", every_s=0.05)
        part = target.report()
        report_schema.check(part)
        (main,) = part["threads"]
        assert main["states"].keys() == {"network"}
        assert main["wall_s"] == pytest.approx(part["target"]["duration_s"], rel=1e-3)
        finding = next(f for f in part["findings"] if f["kind"] == "blocking_network_call")
        assert finding["function"] == "hang"
        assert finding["blocked_s"] == pytest.approx(main["wall_s"], rel=0.01)
    targets.stop(target)


def test_what_was_let_go_is_gone(targets: Targets, programs: list[Program], tmp_path: Path) -> None:
    """Nothing of it waits for the collector of garbage: a daemon has thousands of them in its life."""
    program = Program(BUSY)
    programs.append(program)
    program.go().line()
    gc.collect()
    gc.disable()
    try:
        target, _, _ = targets.start((program.pid,), ("busy",), None, Output(str(tmp_path / "a")))
        slices(targets, target, 30)
        first = weakref.ref(target.observation)
        target.renew(Output(str(tmp_path / "b")))
        assert first() is None
        slices(targets, target, 30)
        second, whole, sampler = (weakref.ref(one) for one in (target.observation, target, target._sampler))
        targets.stop(target)
        del target
        assert (second(), whole(), sampler()) == (None, None, None)
    finally:
        gc.enable()


WORKER = (
    """
import os, signal, sys
worker = os.fork()
if worker:
    sys.stdin.readline()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    print("over", flush=True)
    sys.stdin.readline()
    os._exit(0)
"""
    + JOB
    + """
while True:
    launch(1); sync(); time.sleep(0.005)
"""
)


def test_a_worker_that_ended_before_the_cut_idles_no_more(
    targets: Targets, programs: list[Program], tmp_path: Path
) -> None:
    """A service that replaces its workers would have more engines in each part, all of them idle."""
    program = Program(WORKER, str(build_libcuda(tmp_path)))
    programs.append(program)
    target, _, _ = targets.start((program.pid,), ("workers",))
    program.go()

    def engines() -> int:
        targets.kernel.consume(1000)
        target.sample_stacks(0.25)
        return len(targets.kernel.engines(target.number))

    wait_until(engines, "the worker to use the GPU", every_s=0.02)
    program.go()
    assert program.line() == "over"
    targets.kernel.consume(1000)
    (before,) = target.report()["engines"]
    target.renew(None)
    wait_until(lambda: target.report()["target"]["duration_s"] > 0.3, "the next part to last", every_s=0.05)
    after = target.report()
    assert (after["engines"], after["gaps"], after["idle_by_cause"]) == ([], [], [])
    assert engines() == 0
    assert before["busy_s"] > 0
    targets.stop(target)
