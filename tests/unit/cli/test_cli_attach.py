"""``whyidle attach`` against a fake daemon, and the checks before it asks one."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_daemon import COMMAND, OBSERVATION, FakeDaemon, Wire, whyidle

from whyidle_cli.errors import KernelThread, NoSuchProcess, OwnProcess, ThreadNotProcess
from whyidle_cli.observation import Observation
from whyidle_cli.processes import check_process, command_of
from whyidle_cli.render.live import Live
from whyidle_cli.signals import Signals
from whyidle_wire.client import Client
from whyidle_wire.records import Ended, Failure, Finish, Observe, Observing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.sock"


@pytest.fixture
def target() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()", "an argument"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def usual(wire: Wire) -> tuple[Observe, Finish]:
    wire.welcome()
    return wire.observing(), wire.report()


def test_duration(path: Path, target: subprocess.Popen[bytes]) -> None:
    """After --duration the report is printed with status 0, and the target lives on."""
    with FakeDaemon(path, usual) as daemon:
        done = whyidle("attach", "--duration", "0.01", "--socket", path, target.pid)
    observe, finish = daemon.said
    assert done.returncode == 0
    assert "FINDINGS" in done.stdout
    assert observe.pid == target.pid
    assert observe.pids == ()
    assert observe.command == (sys.executable, "-c", "input()", "an argument")
    assert finish == Finish(OBSERVATION, None)
    assert target.poll() is None


def test_a_duration_of_a_year() -> None:
    """--duration takes one, of which poll() knows nothing."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with theirs, Client(ours) as client, Signals() as signals:
        observation = Observation(client, Live(io.StringIO()))
        assert observation.wait(signals, time.monotonic() + 366 * 86400, reader) == []
    os.close(reader)
    os.close(writer)


def test_several_processes(path: Path, target: subprocess.Popen[bytes]) -> None:
    """Several PIDs are one observation; a repeated one counts once."""
    with FakeDaemon(path, usual) as daemon:
        done = whyidle("attach", "--duration", "0.01", "--socket", path, target.pid, os.getpid(), target.pid)
    assert done.returncode == 0
    assert (daemon.said[0].pid, daemon.said[0].pids) == (target.pid, (os.getpid(),))


def test_target_ends(path: Path, target: subprocess.Popen[bytes]) -> None:
    """When the daemon says that all processes have ended, the report comes without being asked for."""

    def script(wire: Wire) -> Finish:
        wire.welcome()
        wire.observing()
        wire.send(Ended(OBSERVATION, 3))
        return wire.report()

    with FakeDaemon(path, script) as daemon:
        done = whyidle("attach", "--socket", path, target.pid)
    assert done.returncode == 0
    assert daemon.said == Finish(OBSERVATION, 3)


def test_target_ends_at_once(path: Path, target: subprocess.Popen[bytes]) -> None:
    """An end that comes in one piece with the beginning is not waited for again."""

    def script(wire: Wire) -> Finish:
        wire.welcome()
        request = wire.expect(Observe).request
        wire.send(Observing(request, OBSERVATION, "2026-03-02T09:14:07Z", 1, 1), Ended(OBSERVATION, 3))
        return wire.report()

    with FakeDaemon(path, script) as daemon:
        done = whyidle("attach", "--socket", path, target.pid)
    assert done.returncode == 0
    assert daemon.said == Finish(OBSERVATION, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_gives_the_report(path: Path, target: subprocess.Popen[bytes], number: int) -> None:
    """Ctrl-C, or SIGTERM, ends the observation with its report and status 0."""
    ready = threading.Event()

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.observing()
        ready.set()
        wire.report()

    with FakeDaemon(path, script):
        process = subprocess.Popen(
            [*COMMAND, "attach", "--socket", str(path), str(target.pid)], stdout=subprocess.PIPE, text=True
        )
        assert ready.wait(30)
        wait_for_handler(process.pid, number)
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "FINDINGS" in stdout


def wait_for_handler(pid: int, number: int) -> None:
    """Until the process handles SIGTERM, which Python does not do by itself: then it waits for both."""
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught & 1 << (signal.SIGTERM - 1):
            return


def test_daemon_dies(path: Path, target: subprocess.Popen[bytes]) -> None:
    """Without the daemon there is nothing to wait for: status 1 at once, and the target lives on."""
    with FakeDaemon(path, lambda wire: (wire.welcome(), wire.observing())):
        done = whyidle("attach", "--socket", path, target.pid)
    assert done.returncode == 1
    assert done.stderr.startswith("whyidle: the report is lost: ")
    assert target.poll() is None


def test_target_that_dies_while_being_attached(path: Path, target: subprocess.Popen[bytes]) -> None:
    """The daemon's word that the PID is gone is passed on with status 1."""

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.send(Failure(wire.expect(Observe).request, "no_process", "process 7 has ended", "try again"))

    with FakeDaemon(path, script):
        done = whyidle("attach", "--socket", path, target.pid)
    assert done.returncode == 1
    assert done.stderr == "whyidle: process 7 has ended\n  try again\n"


def test_gone(path: Path) -> None:
    """A PID that does not exist is refused with status 1 before a daemon is looked for."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = whyidle("attach", "--socket", path, gone.pid)
    assert done.returncode == 1
    assert done.stderr.startswith(f"whyidle: process {gone.pid} does not exist\n")
    for number in (0, -1, 2**40):
        with pytest.raises(NoSuchProcess):
            check_process(number)


@pytest.mark.parametrize("words", [["x"], ["--duration", "0", "1"], ["--duration", "x", "1"], []])
def test_usage(words: list[str]) -> None:
    """A PID that is no number, no PID, and a duration that is none are wrong usage."""
    done = whyidle("attach", *words)
    assert done.returncode == 2
    assert "usage: whyidle attach" in done.stderr


def proc(root: Path, pid: int, name: str, state: str = "S", flags: int = 0x400000, tgid: int = 0) -> Path:
    folder = root / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} ({name}) {state} 1 {pid} {pid} 0 -1 {flags} 88 0 0 0\n")
    (folder / "status").write_text(f"Name:\t{name}\nTgid:\t{tgid or pid}\nPid:\t{pid}\n")
    return root


def test_kernel_thread(tmp_path: Path) -> None:
    """A kernel thread is named as one, whatever its name contains."""
    with pytest.raises(KernelThread, match=r"process 9 \(kworker/0:0\) R\) is a kernel thread"):
        check_process(9, proc(tmp_path, 9, "kworker/0:0) R", flags=0x4208060 | 0x00200000))


def test_zombie(tmp_path: Path) -> None:
    """A process that has ended but was not waited for has ended."""
    with pytest.raises(NoSuchProcess, match="process 9 has already ended"):
        check_process(9, proc(tmp_path, 9, "agent", state="Z"))


def test_thread(tmp_path: Path) -> None:
    """For a thread's number the error names its process."""
    with pytest.raises(ThreadNotProcess, match="9 is a thread of process 4"):
        check_process(9, proc(tmp_path, 9, "worker", tgid=4))


def test_own_process() -> None:
    """whyidle does not observe itself."""
    with pytest.raises(OwnProcess):
        check_process(os.getpid())


def test_a_process_that_can_be_observed(tmp_path: Path) -> None:
    """A name made to look like the rest of the line fools nobody."""
    check_process(9, proc(tmp_path, 9, "a) Z 1 1 1 1 1 2097152 ("))


def test_command_line(tmp_path: Path) -> None:
    """The command line keeps empty arguments, survives bytes that are not UTF-8, and may be empty."""
    root = proc(tmp_path, 9, "x")
    (root / "9" / "cmdline").write_bytes(b"agent\0\0\xff\0")
    assert command_of(9, root) == ("agent", "", "\ufffd")
    (root / "9" / "cmdline").write_bytes(b"")
    assert command_of(9, root) == ()
    assert command_of(10, root) == ()
