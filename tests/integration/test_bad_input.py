"""What goes wrong gets one clear message and the right exit code, and the daemon lives on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Program, wait_until
from harness_cli import BIN, Daemon, load, whyidle
from whyidle_wire.codec import encode
from whyidle_wire.records import (
    Failure,
    Finish,
    Hello,
    Observe,
    Observing,
    Report,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
)

pytestmark = pytest.mark.bpf


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def alive(daemon: Daemon) -> bool:
    """The daemon still answers."""
    with daemon.client() as client:
        client.send(Status(7))
        reply = client.receive(10)
        return isinstance(reply, StatusReply) and reply.request == 7


def gone_pid() -> int:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    return done.pid


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["run", "--", "/nonexistent/cmd"], "not found", 1),
        (["run", "--", "/etc/passwd"], "not", 1),
        (["run"], "", 2),
        (["attach"], "", 2),
        (["attach", "0"], "0", 1),
        (["attach", "x"], "", 2),
        (["attach", "2"], "kernel thread", 1),
        (["nonsense"], "", 2),
    ],
)
def test_messages_and_exit_codes(arguments: list[str], words: str, code: int) -> None:
    """One line says what happened, one what to do; never a traceback."""
    done = whyidle(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 2


def test_a_process_that_is_gone() -> None:
    """A PID without a process is named in the message."""
    pid = gone_pid()
    done = whyidle("attach", str(pid))
    assert done.returncode == 1
    assert str(pid) in done.stderr


def test_without_root(tmp_path: Path) -> None:
    """An ordinary user without a daemon gets exit code 3 and what to do."""
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            BIN / "whyidle",
            "run",
            "--",
            "/bin/true",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    if "Permission denied" in done.stderr:
        pytest.skip("this checkout lies where an ordinary user cannot read it")
    assert done.returncode == 3
    assert "root" in done.stderr


def test_observe_refusals(daemon: Daemon) -> None:
    """Kernel threads, gone processes, threads and the daemon itself are refused, each with its reason."""
    program = Program("import threading\nt = threading.Thread(target=sys.stdin.readline)\nt.start()\n"
                      "print(t.native_id, flush=True)")  # fmt: skip
    try:
        thread = int(program.go().line())
        cases = {2: "kernel_thread", gone_pid(): "no_process", thread: "no_process", 0: "no_process"}
        cases[daemon.process.pid] = "bad_request"
        with daemon.client() as client:
            for number, (pid, code) in enumerate(cases.items(), 1):
                client.send(Observe(number, pid, ()))
                answer = client.receive(10)
                assert isinstance(answer, Failure), (pid, answer)
                assert (answer.request, answer.code) == (number, code)
                assert answer.message
                assert answer.hint
    finally:
        program.close()
    assert alive(daemon)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 0xFFFFFFFF) + b"x",
        struct.pack(">I", 70_000) + b"\0" * 70_000,
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        encode(Hello(99, "from the future")),
        encode(Finish(1, 0)),
        b"",
    ],
    ids=["text", "4 GiB frame", "oversized", "not msgpack", "other version", "no hello", "nothing"],
)
def test_hostile_clients(daemon: Daemon, data: bytes) -> None:
    """Whatever a client sends, it is told what is wrong and closed, and the daemon serves the next one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(daemon.socket))
        raw.settimeout(10)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have been told half-way
            raw.sendall(data)
        if data:
            answer = b""
            with contextlib.suppress(ConnectionResetError):  # what it did not read any more
                while part := raw.recv(65536):
                    answer += part
            assert b"whyidle" in answer or b"protocol" in answer
    assert alive(daemon)


def test_second_daemon_on_the_same_socket(daemon: Daemon) -> None:
    """A second daemon says that there is one already, and leaves its socket alone."""
    done = subprocess.run(
        [BIN / "whyidled", "--socket", daemon.socket], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "another whyidled" in done.stderr
    assert alive(daemon)


def test_socket_left_by_a_dead_daemon(tmp_path: Path) -> None:
    """A socket file whose daemon was killed is taken over."""
    first = Daemon(tmp_path)
    first.kill()
    assert first.socket.exists()
    with Daemon(tmp_path) as second:
        assert alive(second)
    assert not second.socket.exists()


def test_socket_path_that_is_a_file(tmp_path: Path) -> None:
    """A file that is no socket is never removed."""
    (tmp_path / "w.sock").write_text("precious")
    daemon = Daemon(tmp_path, wait=False)
    assert daemon.process.wait(timeout=30) == 1
    assert "no socket" in daemon.said()
    assert (tmp_path / "w.sock").read_text() == "precious"


def test_targets_that_die_while_being_attached(daemon: Daemon) -> None:
    """However early a target dies, the answer is an observation or a reason, and the report still comes."""
    with daemon.client() as client:
        for number in range(1, 42):
            child = subprocess.Popen(["/bin/true"])
            client.send(Observe(number, child.pid, ("true",), 0))
            answer = client.receive(10)
            while not isinstance(answer, Observing | Failure):
                answer = client.receive(10)
            child.wait()
            if isinstance(answer, Observing):
                client.send(Finish(answer.observation, None))
                report = client.receive(10)
                while not isinstance(report, Report):
                    report = client.receive(10)
                assert report.report["target"]["pid"] == child.pid
            else:
                assert answer.code == "no_process"
    assert alive(daemon)


def test_two_thousand_short_lived_children(tmp_path: Path) -> None:
    """A fork storm is reported whole: every process is counted, none is lost."""
    code = "import os\nfor _ in range(2003):\n p = os.fork()\n if p == 0: os._exit(0)\n os.waitpid(p, 0)"
    done = whyidle("run", "--json", tmp_path / "r.json", "--", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    report = load(tmp_path / "r.json")
    omitted = report.get("processes_omitted", {}).get("count", 0)
    assert len(report["processes"]) + omitted == 2004
    threads = len(report["threads"]) + report["threads_omitted"]["count"]
    assert threads == 2004
    assert report["loss"]["events_lost"] == 0


def test_client_that_never_reads(daemon: Daemon) -> None:
    """A stuck subscriber costs the daemon its bounded queue and nothing else; others are served at once."""
    storm = Program("import time\nwhile True: time.sleep(0.0012)")
    try:
        with daemon.client() as stuck, daemon.client() as owner:
            stuck.send(Subscribe(1, (), None, True))
            assert isinstance(stuck.receive(10), Subscribed)
            owner.send(Observe(1, storm.pid, ("storm",), 0))
            assert isinstance(owner.receive(10), Observing)
            storm.go()

            def dropped() -> bool:
                owner.send(Status(2))
                reply = owner.receive(10)
                assert isinstance(reply, StatusReply)
                assert reply.status["client_queues_bytes"] <= 8 << 20
                return bool(reply.status["records_dropped"])

            wait_until(dropped, "the queue to overflow", 60, every_s=0.05)
    finally:
        storm.close()
    assert alive(daemon)


def test_daemon_killed_in_the_middle(tmp_path: Path) -> None:
    """When the daemon dies, the user's command runs on to its own end, and the loss is told."""
    with Daemon(tmp_path) as daemon:
        marker = tmp_path / "done"
        run = subprocess.Popen(
            [
                *(BIN / "whyidle", "run", "--socket", daemon.socket, "--", "/bin/sh", "-c"),
                f"read x < {tmp_path}/fifo; touch {marker}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.mkfifo(tmp_path / "fifo")
        with daemon.client() as client:

            def observed() -> bool:
                client.send(Status(1))
                reply = client.receive(10)
                return isinstance(reply, StatusReply) and reply.status["observations"] == 1

            wait_until(observed, "the observation")
        daemon.kill()
        (tmp_path / "fifo").write_text("go\n")
        _, said = run.communicate(timeout=30)
    assert run.returncode == 1
    assert marker.exists()
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 2


def test_interrupt_reaches_the_command_and_the_report_still_comes(tmp_path: Path) -> None:
    """Ctrl-C ends the command, not the report."""
    run = subprocess.Popen(
        [
            BIN / "whyidle",
            "run",
            "--json",
            tmp_path / "r.json",
            "--",
            sys.executable,
            "-c",
            f"import time; open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until((tmp_path / "up").exists, "the command")
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=30) == 130
    assert load(tmp_path / "r.json")["target"]["exit_status"] == 130
