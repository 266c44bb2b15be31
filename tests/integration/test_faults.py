"""The daemon in a host that fails: no memory, clocks that jump, odd mounts and namespaces, another daemon."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import SELF_SERVED, Program, wait_until
from harness_cli import BIN, Daemon, load, whyidle
from integration.test_kept_history import CONFIG, history, whole_parts
from whyidle_daemon import libbpf
from whyidle_daemon.proc import Proc
from whyidle_wire.errors import WireError
from whyidle_wire.records import Failure, FailureCode, Finish, Observe, Observing, Report

pytestmark = pytest.mark.bpf
WAITS = SELF_SERVED + "def search_web():\n    c.send(b'q'); c.recv(64)\nwhile True: search_web()\n"
SIMULATORS = Path(__file__).parents[1] / "simulators"


def in_namespace(options: str, script: str) -> list[str]:
    """What to put before a command for it to run in namespaces of its own, made up by a shell script."""
    return ["unshare", *options.split(), "sh", "-c", script + ' && exec "$@"', "sh"]


def programs_of(pid: int) -> set[int]:
    """The kernel's numbers of the BPF programs that a process holds."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in path.read_text().splitlines()]
            found |= {int(line[1]) for line in lines if line[:1] == ["prog_id:"]}
    return found


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group for memory, of whichever version this host has."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    path = Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory") / f"whyidle-test-oom-{os.getpid()}"
    try:
        path.mkdir()
        if not any((path / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            path.rmdir()
            pytest.skip("this host has no memory controller")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield path

    def gone() -> bool:
        with contextlib.suppress(OSError):
            path.rmdir()
        return not path.exists()

    wait_until(gone, "the group to be removed")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that waits for a socket nearly all the time, found by a rule by its last argument."""
    with subprocess.Popen([sys.executable, "-c", WAITS, f"mark-{tmp_path.name}"]) as running:
        yield running
        running.kill()


def discovering(tmp_path: Path) -> Daemon:
    (tmp_path / "state").mkdir(exist_ok=True)
    config = CONFIG.format(mark=f"mark-{tmp_path.name}")
    return Daemon(tmp_path, config=config, arguments=["--state", tmp_path / "state"])


def kills(group: Path) -> int:
    name = "memory.events" if (group / "memory.events").exists() else "memory.oom_control"
    words = dict(line.split() for line in (group / name).read_text().splitlines())
    return int(words["oom_kill"])


def test_out_of_memory(tmp_path: Path, group: Path, agent: subprocess.Popen[bytes]) -> None:
    """Killed by the kernel for its memory: nothing stays attached, and the next one tells the blind time."""
    state = tmp_path / "state"
    first = discovering(tmp_path)
    wait_until(lambda: whole_parts(state) >= 2, "some parts", 60)
    programs = programs_of(first.process.pid)
    assert programs
    limit = group / ("memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes")
    limit.write_text(str(1 << 20))
    (group / "cgroup.procs").write_text(str(first.process.pid))  # what it takes from now on is counted
    crowd = Program(
        "import threading, time\n"
        "for _ in range(1500): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "print('up', flush=True)\ntime.sleep(600)"
    )
    try:
        assert crowd.go().line() == "up"

        def dead() -> bool:
            with contextlib.suppress(OSError, WireError), first.client() as client:  # it dies of this one day
                client.send(Observe(1, crowd.pid, (), 0))
                observing = client.receive(20)
                if isinstance(observing, Observing):
                    client.send(Finish(observing.observation, None))
                    client.receive(20)
            return first.process.poll() is not None

        wait_until(dead, "the kernel to kill it", 90)
    finally:
        crowd.close()
        first.kill()
    assert first.process.returncode == -9
    assert kills(group) == 1

    def gone() -> bool:
        lib = libbpf.library()
        descriptors = [lib.bpf_prog_get_fd_by_id(number) for number in programs]
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)
        return all(descriptor < 0 for descriptor in descriptors)

    wait_until(gone, "the kernel to free the programs")
    with discovering(tmp_path):
        before = whole_parts(state)
        wait_until(lambda: whole_parts(state) >= before + 2, "more parts", 60)
    report = history(state, "--pid", str(agent.pid))
    assert 0 < report["loss"]["seconds_blind"] < report["target"]["duration_s"]
    (main,) = [thread for thread in report["threads"] if thread["tid"] == agent.pid]
    assert sum(main["states"].values()) == pytest.approx(main["wall_s"], rel=1e-3)


def test_the_clock_is_set(tmp_path: Path) -> None:
    """CLOCK_REALTIME steps by a day, forth and back, under a daemon that observes: no duration knows of it.

    Nobody's clock is touched: a library tells this daemon alone another time of day.
    """
    library, clock = tmp_path / "wall_clock.so", tmp_path / "clock"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SIMULATORS / "wall_clock.c"], check=True)
    clock.write_bytes(bytes(8))
    prefix = ["env", f"LD_PRELOAD={library}", f"WALL_CLOCK_OFFSET={clock}"]
    program = Program(WAITS)
    recording = tmp_path / "r.rec"
    try:
        with Daemon(tmp_path, prefix=prefix) as daemon, daemon.client() as client:
            assert str(library) in Path(f"/proc/{daemon.process.pid}/maps").read_text()
            client.send(Observe(1, program.pid, ("agent",), 0, str(recording)))
            observing = client.receive(20)
            assert isinstance(observing, Observing)
            began = time.monotonic()
            program.go()
            for step_s in (86400, -86400, 0):
                clock.write_bytes(step_s.to_bytes(8, sys.byteorder, signed=True))
                before = recording.stat().st_size
                wait_until(lambda size=before: recording.stat().st_size > size, "the recording to go on")
            client.send(Finish(observing.observation, None))
            answer = client.receive(20)
            while not isinstance(answer, Report):
                answer = client.receive(20)
            took = time.monotonic() - began
    finally:
        program.close()
    report = answer.report
    assert 0 < report["target"]["duration_s"] < took + 1
    for thread in report["threads"]:
        assert 0 < thread["wall_s"] < took + 1
        assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=1e-3)
    (finding,) = [f for f in report["findings"] if f["kind"] == "blocking_network_call"]
    assert finding["function"] == "search_web"
    assert finding["blocked_s"] < took
    assert whyidle("report", recording, "--json", tmp_path / "again.json").returncode == 0
    assert load(tmp_path / "again.json")["target"] == report["target"]


def test_suspended_for_an_hour() -> None:
    """When a process began is the same moment on CLOCK_MONOTONIC, however long the host slept before it.

    A time namespace shifts CLOCK_BOOTTIME, and the times in /proc with it, as a suspend does.
    """
    code = "import sys\nfrom whyidle_daemon.proc import Proc\nprint(Proc().started_ns(int(sys.argv[1])))"
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        try:
            done = subprocess.run(
                ["unshare", "--time", "--boottime", "3600", sys.executable, "-c", code, str(sleeper.pid)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if "unshare failed" in done.stderr:
                pytest.skip("this kernel has no time namespaces")
            here = Proc().started_ns(sleeper.pid)
        finally:
            sleeper.kill()
    assert here is not None
    assert int(done.stdout) == pytest.approx(here, abs=10_000_000)  # a tick, of 100 in a second


def test_thousands_of_execs_a_second(tmp_path: Path) -> None:
    """A process that does nothing but exec: one life, every moment of it in a state, nothing lost."""
    source = Path(__file__).with_name("execs.c")
    subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", tmp_path / "execs", source], check=True)
    count = 6000
    done = whyidle("run", "--json", tmp_path / "r.json", "--", tmp_path / "execs", str(count))
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    (process,) = report["processes"]
    (thread,) = report["threads"]
    assert process["pid"] == thread["tid"] == report["target"]["pid"]
    assert thread["wall_s"] == pytest.approx(report["target"]["duration_s"], rel=0.05, abs=0.2)
    assert sum(thread["states"].values()) == pytest.approx(thread["wall_s"], rel=1e-3)
    assert report["loss"]["events_lost"] == 0
    assert thread["states"]["running"] > 0


def test_without_libbpf(tmp_path: Path) -> None:
    """One line that says what is missing and one with the package; exit 3."""
    hide = 'for f in /usr/lib/*/libbpf.so.* /lib/*/libbpf.so.*; do mount --bind /dev/null "$f"; done'
    daemon = Daemon(tmp_path, wait=False, prefix=in_namespace("--mount", hide))
    assert daemon.process.wait(timeout=60) == 3
    lines = [line for line in daemon.said().splitlines() if "INFO" not in line]
    assert len(lines) == 2, lines
    assert "libbpf" in lines[0]
    assert "apt-get install libbpf1" in lines[1]
    assert not daemon.socket.exists()


@pytest.mark.parametrize("how", ["invisible", "noaccess"])
def test_proc_that_hides_processes(tmp_path: Path, how: str) -> None:
    """With /proc mounted so that nobody sees another's processes, the daemon does: it may ptrace them."""
    mark = f"mark-{tmp_path.name}"
    hide = f"mount -t proc -o hidepid={how} proc /proc"
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", WAITS, mark], user=61001, group=61001, cwd="/"
    ) as theirs:
        try:
            config = CONFIG.format(mark=mark)
            with Daemon(tmp_path, config=config, prefix=in_namespace("--mount", hide)) as daemon:
                mounts = Path(f"/proc/{daemon.process.pid}/mounts").read_text()
                assert f"hidepid={how}" in mounts
                wait_until(lambda: f"observing process {theirs.pid} " in daemon.said(), "it to be found")
                attach = ("attach", str(theirs.pid), "--duration", "1", "--json", tmp_path / "r.json")
                done = whyidle(*attach, "--socket", daemon.socket)
                assert done.returncode == 0, done.stderr
        finally:
            theirs.kill()
    report = load(tmp_path / "r.json")
    assert {process["pid"] for process in report["processes"]} == {theirs.pid}
    (finding,) = [f for f in report["findings"] if f["kind"] == "blocking_network_call"]
    assert finding["function"] == "search_web"  # its memory was read


def test_in_a_pid_namespace(tmp_path: Path) -> None:
    """Where processes have other numbers than in the kernel it says so, and observes nothing wrong."""
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    program = Program("import time\ntime.sleep(60)")
    try:
        config = CONFIG.format(mark=f"mark-{tmp_path.name}")
        with Daemon(tmp_path, config=config, prefix=prefix) as daemon:
            assert "in a PID namespace of its own the daemon cannot discover anything" in daemon.said()
            with daemon.client() as client:
                client.send(Observe(1, program.pid, (), 0))
                answer = client.receive(20)
            assert isinstance(answer, Failure)
            assert answer.code == FailureCode.HOST
            assert "PID namespace" in answer.message
            done = whyidle("run", "--socket", daemon.socket, "--", "/bin/true")
            assert done.returncode == 3
            assert len(done.stderr.strip().splitlines()) == 2
            daemon.kill()  # unshare passes no signal on
    finally:
        program.close()


def test_two_daemons_see_the_same(tmp_path: Path) -> None:
    """Each has its own probes: both see a process whole, and the death of one is nothing to the other."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    program = Program(WAITS)
    try:
        with Daemon(folders[0]) as one, Daemon(folders[1]) as two, one.client() as a, two.client() as b:
            observing = []
            for client in (a, b):
                client.send(Observe(1, program.pid, ("agent",), 0))
                answer = client.receive(20)
                assert isinstance(answer, Observing)
                observing.append(answer.observation)
            program.go()

            def waited() -> int:
                status = Path(f"/proc/{program.pid}/status").read_text().split()
                return int(status[status.index("voluntary_ctxt_switches:") + 1])

            wait_until(lambda: waited() > 20, "some waits")
            one.kill()
            so_far = waited()
            wait_until(lambda: waited() > so_far + 20, "more waits")
            b.send(Finish(observing[1], None))
            answer = b.receive(20)
            while not isinstance(answer, Report):
                answer = b.receive(20)
    finally:
        program.close()
    (main,) = [thread for thread in answer.report["threads"] if thread["tid"] == program.pid]
    assert main["states"]["network"] > 0.5 * main["wall_s"]
    assert answer.report["loss"] == {**answer.report["loss"], "events_lost": 0, "seconds_blind": 0}
    assert subprocess.run(
        [BIN / "whyidle", "ps", "--socket", one.socket], capture_output=True, check=False
    ).returncode in (1, 3)
