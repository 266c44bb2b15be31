"""The kernel side notices processes that nobody observes, cheaply."""

from __future__ import annotations

import select
import subprocess
from typing import Any

import pytest

from harness import Probe, Program, wait_until
from whyidle_probes.events import Exec, Noticed

pytestmark = pytest.mark.bpf


def announced(probe: Probe) -> int:
    probe.events()
    return sum(isinstance(event, Noticed) for event in probe.seen)


def test_an_exec_is_announced_once_and_the_process_is_in_the_table(
    probe: Probe, programs: list[Program]
) -> None:
    """However many programs start, user space is woken once until it looks; those that ended are gone."""
    probe.kernel.noticed()
    probe.seen.clear()
    try:
        living = [Program("sys.stdin.readline()") for _ in range(3)]
        programs += living
        for program in living:
            program.go()
        ended = [subprocess.Popen(["/bin/true"]) for _ in range(20)]
        for process in ended:
            process.wait()
        wait_until(lambda: announced(probe), "the announcement")
        found = set(probe.kernel.noticed())
        assert {program.pid for program in living} <= found
        assert not {process.pid for process in ended} & found
        again = Program("sys.stdin.readline()")
        programs.append(again)
        wait_until(lambda: announced(probe) == 2, "the second announcement")
        assert again.pid in probe.kernel.noticed()
    finally:
        probe.kernel.notice(False)


def test_observed_processes_are_not_noticed(probe: Probe, programs: list[Program]) -> None:
    """What an observed process starts belongs to its target already."""
    program = Program("import subprocess; p = subprocess.Popen(['/bin/sleep', '60']);"
                      "print(p.pid, flush=True); sys.stdin.readline(); p.kill()")  # fmt: skip
    programs.append(program)
    probe.track(program.pid)
    probe.kernel.noticed()
    try:
        child = int(program.go().line())
        assert probe.kernel.target_of(child) == probe.number
        assert child not in probe.kernel.noticed()
        program.go()
        program.join()
    finally:
        probe.kernel.notice(False)


def test_off_means_off(probe: Probe) -> None:
    """A private daemon, which discovers nothing, pays for nothing."""
    probe.kernel.noticed()
    probe.kernel.notice(False)
    probe.events()
    probe.seen.clear()
    subprocess.run(["/bin/true"], check=True)
    assert announced(probe) == 0


@pytest.mark.parametrize("resting", [True, False])
def test_a_new_program_wakes_a_daemon_that_rests(probe: Any, programs: list[Program], resting: bool) -> None:
    """Where nothing was to be read the rings are read rarely; a program that starts there may be Python."""
    program = Program("import os; os.execv(sys.executable, [sys.executable, '-c', 'pass'])")
    programs.append(program)
    probe.track(program.pid)
    probe.events()
    ring = select.epoll()
    ring.register(probe.kernel.control.fileno(), select.EPOLLIN | select.EPOLLET)
    ring.poll(0)
    probe.kernel.rest(resting)
    try:
        program.go()
        assert program.join() == 0
        woken = ring.poll(1.0 if resting else 0.2)
    finally:
        probe.kernel.rest(False)
        ring.close()
    assert bool(woken) == resting
    assert any(isinstance(event, Exec) for event in probe.events())
