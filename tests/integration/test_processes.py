"""Following a tree of processes: fork, exec, exit, and what is left when buffers are full."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Probe, Program, wait_until
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_probes.events import Event, Exec, Exit, Fork, Stat, Thread, Wait
from whyidle_probes.loader import ProbeConfig, load_probes

pytestmark = pytest.mark.bpf


def test_descendants_are_followed(run_observed):
    """Children and grandchildren are tracked from their first instruction, each with its exit status."""
    program = run_observed("""
        import os, subprocess
        pid = os.fork()
        if pid == 0:
            status = subprocess.call(["/bin/sh", "-c", "/bin/sleep 0.01; exit 7"])
            os._exit(status)
        os.waitpid(pid, 0)
    """)
    events = run_observed.probe.events()
    forks = {e.pid: e.parent for e in events if isinstance(e, Fork)}
    execs = {e.pid: e.path for e in events if isinstance(e, Exec)}
    codes = {e.pid: os.waitstatus_to_exitcode(e.code) for e in events if isinstance(e, Exit)}
    child = next(pid for pid, parent in forks.items() if parent == program.pid)
    shell = next(pid for pid, parent in forks.items() if parent == child)
    sleep = next(pid for pid, parent in forks.items() if parent == shell)
    execs.pop(program.pid, None)  # its own exec may have come before it was tracked
    assert execs == {shell: "/bin/sh", sleep: "/bin/sleep"}
    assert codes == {program.pid: 0, child: 7, shell: 7, sleep: 0}
    assert run_observed.probe.kernel.processes(run_observed.probe.number) == []


def test_exec_from_a_thread_keeps_its_time(run_observed):
    """A thread that calls exec takes over the leader's number; its totals go on under it."""
    program = run_observed("""
        import os, threading, time
        def work():
            time.sleep(0.05)
            os.execv("/bin/sleep", ["sleep", "0.05"])
        threading.Thread(target=work).start()
        time.sleep(9)
    """)
    probe = run_observed.probe
    replaced = [e for e in probe.events() if isinstance(e, Exec) and e.path == "/bin/sleep"]
    assert len(replaced) == 1
    assert replaced[0].pid == program.pid != replaced[0].old_tid
    final = [t for t in probe.exits(program.pid) if t.comm == "sleep"]
    assert len(final) == 1
    # Both of its sleeps, before and after it became another program under another number.
    assert final[0].tid == program.pid
    assert final[0].ns[Wait.SLEEP] >= 0.09 * 1e9
    assert sum(final[0].ns) == final[0].end_ns - final[0].first_ns


def test_execs_from_threads_are_all_told(probe: Probe, programs: list[Program], tmp_path: Path) -> None:
    """The first thread may leave its CPU for the last time when another has taken its number already."""
    source, count = Path(__file__).with_name("execs.c"), 5003
    subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", tmp_path / "execs", source], check=True)
    program = Program(
        "import os; os.execv(sys.argv[1], sys.argv[1:])", str(tmp_path / "execs"), str(count), "x"
    )
    programs.append(program)
    probe.track(program.pid)
    program.go()
    wait_until(
        lambda: probe.kernel.consume(10_000) == 0 and program.process.poll() is not None, "the last exec"
    )
    probe.exit_of(program.pid)
    execs = [e for e in probe.events() if isinstance(e, Exec) and e.path.startswith(str(tmp_path)[:50])]
    assert len(execs) == count + 1
    assert probe.kernel.threads(probe.number) == []
    for thread in probe.exits(program.pid):
        assert sum(thread.ns) == thread.end_ns - thread.first_ns


def test_two_thousand_short_lived_children(run_observed):
    """A fork storm loses no process and no thread's totals."""
    children = 2003  # prime, so that no multiple hides a mistake
    program = run_observed.start(
        """
        import os
        for _ in range(int(sys.argv[1])):
            pid = os.fork()
            if pid == 0: os._exit(0)
            os.waitpid(pid, 0)
        """,
        str(children),
    ).go()
    probe = run_observed.probe
    wait_until(
        lambda: probe.kernel.consume(10_000) == 0 and program.process.poll() is not None, "the storm's end"
    )
    probe.exit_of(program.pid)
    events = probe.events()
    stats = probe.kernel.stats()
    assert stats[Stat.CONTROL_LOST] == 0
    assert sum(isinstance(e, Fork) for e in events) == children
    assert sum(isinstance(e, Exit) for e in events) == children + 1
    assert sum(isinstance(e, Thread) for e in events) == children + 1


def test_full_buffers_lose_no_totals_and_count_what_they_lose(programs: list[Program]) -> None:
    """With nobody reading, slices are counted as lost and ended threads are kept until they are swept up."""
    seen: list[Event] = []
    kernel = Kernel(load_probes(ProbeConfig(event_bytes=4096, control_bytes=4096)), seen.append)
    try:
        program = Program("""
            import threading, time
            for _ in range(61): time.sleep(0.002)
            threads = [threading.Thread(target=time.sleep, args=(0.002,)) for _ in range(31)]
            [t.start() for t in threads]
            [t.join() for t in threads]
        """)
        programs.append(program)
        kernel.track([program.pid], 1)
        assert program.go().join() == 0
        wait_until(lambda: all(t.end_ns for t in kernel.threads(1)), "the last switch")
        stats = kernel.stats()
        swept = kernel.sweep_exited(1)
        kernel.consume(10_000)
        slices = [e for e in seen if not isinstance(e, Thread)]
        threads = [e for e in seen if isinstance(e, Thread)] + swept
        assert stats[Stat.SLICES_LOST] > 0
        assert stats[Stat.SLICES] == sum(type(e).__name__ == "Slice" for e in slices)
        assert stats[Stat.EXITS_KEPT] == len(swept) > 0
        assert len(threads) == 32
        assert all(sum(t.ns) == t.end_ns - t.first_ns for t in threads)
        assert sum(t.ns[Wait.SLEEP] for t in threads) >= (61 + 31) * 0.002 * 1e9
        assert kernel.threads(1) == []
    finally:
        kernel.close()


def test_thread_table_full_is_counted(programs: list[Program]) -> None:
    """Threads that the table has no room for are a counted loss."""
    kernel = Kernel(load_probes(ProbeConfig(max_threads=4)), lambda _: None)
    try:
        program = Program("""
            import threading, time
            threads = [threading.Thread(target=time.sleep, args=(0.01,)) for _ in range(11)]
            [t.start() for t in threads]
            [t.join() for t in threads]
        """)
        programs.append(program)
        kernel.track([program.pid], 1)
        assert program.go().join() == 0
        assert kernel.stat(Stat.THREADS_LOST) > 0
    finally:
        kernel.close()


def test_processes_end_whose_threads_the_table_had_no_room_for(programs: list[Program]) -> None:
    """Children that were counted as processes when they began are none when they have ended."""
    kernel = Kernel(load_probes(ProbeConfig(max_threads=4)), lambda _: None)
    try:
        program = Program("""
            import os
            for _ in range(11): os.fork() or os._exit(len(sys.stdin.read()))
            for _ in range(11): os.wait()
        """)
        programs.append(program)
        kernel.track([program.pid], 1)
        program.go()
        wait_until(lambda: len(kernel.processes(1)) == 12, "the children")
        assert kernel.stat(Stat.THREADS_LOST) >= 8
        program.process.communicate()
        assert kernel.processes(1) == []
    finally:
        kernel.close()


def test_a_process_that_has_ended_is_not_tracked(probe: Probe) -> None:
    """Nobody would ever say that it is over: as a zombie, or when nothing is left of it."""
    with subprocess.Popen(["/bin/true"]) as ended:
        wait_until(lambda: "Z" in _stat_of(ended.pid), "a zombie")
        probe.track(ended.pid)
        assert probe.kernel.processes(probe.number) == []
        assert ended.wait() == 0
        probe.track(ended.pid)
        assert probe.kernel.processes(probe.number) == []


def test_a_child_in_the_middle_of_its_end_is_not_tracked(probe: Probe, programs: list[Program]) -> None:
    """The first process of a PID namespace, which has exited, waits there until all others are reaped."""
    program = Program("""
        import ctypes, os, signal
        assert ctypes.CDLL(None).unshare(0x20000000) == 0
        first = os.fork()
        if first == 0: signal.pause()
        second = os.fork()
        if second == 0: signal.pause()
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)
        print(first, flush=True)
        sys.stdin.readline()
        os.waitpid(second, 0), os.waitpid(first, 0)
        sys.stdin.readline()
    """)
    programs.append(program)
    first = int(program.go().line())
    assert "Z" not in _stat_of(first)
    probe.track(program.pid)
    assert probe.kernel.processes(probe.number) == [program.pid]
    program.go().go()
    assert program.join() == 0
    wait_until(lambda: not probe.kernel.threads(probe.number), "the last switch")
    assert probe.kernel.processes(probe.number) == []


def test_what_is_forked_while_a_target_is_forgotten_is_forgotten_too(
    probe: Probe, programs: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that came when the threads had been read, and its parent was still one, can be tracked anew."""
    program = Program("""
        import os, signal
        sys.stdin.readline()
        child = os.fork()
        if child: print(child, flush=True)
        signal.pause()
    """)
    programs.append(program.go())
    kernel = probe.kernel
    children: list[int] = []
    read = kernel._threads.items

    def late() -> Iterator[tuple[bytes, bytes]]:
        yield from list(read())
        if not children:
            children.append(int(program.go().line()))

    probe.track(program.pid)
    with monkeypatch.context() as patched:
        patched.setattr(kernel._threads, "items", late)
        kernel.untrack(probe.number)
    assert kernel.processes(probe.number) == []
    assert kernel.threads(probe.number) == []
    kernel.track(children, probe.number)
    assert [t.pid for t in kernel.threads(probe.number)] == children
    os.kill(children[0], signal.SIGKILL)


def test_live_totals_reach_to_now(run_observed):
    """A thread in the middle of a wait has that wait in its totals, up to this instant."""
    program = run_observed.start("import time\ntime.sleep(60)")
    program.go()
    probe = run_observed.probe
    wait_until(
        lambda: (t := probe.kernel.thread(program.pid)) and t.state == Wait.SLEEP and t.syscall != 0xFFFF,
        "the sleep",
    )
    before = monotonic_ns()
    thread = probe.kernel.thread(program.pid)
    now = monotonic_ns()
    assert thread is not None
    totals = thread.totals_at(now)
    assert sum(totals) == now - thread.first_ns
    assert totals[Wait.SLEEP] >= before - thread.last_ns


def test_threads_beyond_the_table_of_known_numbers_are_tracked(programs: list[Program]) -> None:
    """A host may raise pid_max after the probes were loaded: higher numbers only cost more."""
    while subprocess.Popen(["/bin/true"]).wait() == 0 and _last_pid() < 4096:
        pass
    kernel = Kernel(load_probes(ProbeConfig(tid_pages=1)), lambda _: None)
    try:
        program = Program("import time\ntime.sleep(60)")
        programs.append(program)
        kernel.track([program.pid], 1)
        program.go()
        assert program.pid >= 4096
        wait_until(
            lambda: (t := kernel.thread(program.pid)) and t.ns[Wait.RUNNING] and t.state == Wait.SLEEP,
            "the sleep",
        )
    finally:
        kernel.close()


def _last_pid() -> int:
    return int(Path("/proc/loadavg").read_text().split()[-1])


def _stat_of(pid: int) -> str:
    """The letter of its state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
