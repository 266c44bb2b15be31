"""Waits in io_uring_enter: they have a state, and a socket that ends one has a peer."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import FLOODED, Program, wait_until
from harness_cli import load, whyidle
from uring import URING
from whyidle_probes.events import Slice, Wait

pytestmark = pytest.mark.bpf

TIMEOUT = """
span = ctypes.create_string_buffer(struct.pack("<qq", 0, 100_000_000))
for _ in range(4):
    ring.push(TIMEOUT, -1, span, 1)
    assert ring.wait() == -62
"""
PIPE = """
reader, writer = os.pipe()
for _ in range(4):
    threading.Timer(0.1, os.write, (writer, b"x")).start()
    ring.push(READ, reader, buffer, 1, (1 << 64) - 1, FLAGS)
    assert ring.wait() == 1
"""
RECEIVE = """
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for _ in range(4):
    s.send(b"?")
    ring.push(RECV, s.fileno(), buffer, 64, 0, FLAGS)
    assert ring.wait() == 1
"""
WHILE_FLOODED = f"""{FLOODED}
span = ctypes.create_string_buffer(struct.pack("<qq", 0, 20_000_000))
end = time.monotonic() + 1.5
while time.monotonic() < end:
    ring.push(TIMEOUT, -1, span, 1)
    assert ring.wait() == -62
"""
FILE = """
file = os.open(sys.argv[1], os.O_RDONLY)
number, end = 0, time.monotonic() + 0.5  # beside that the kernel's wait for its workers to end is nothing
while time.monotonic() < end:
    ring.push(READ, file, buffer, 1 << 16, number % 400 << 16, FLAGS)
    assert ring.wait() == 1 << 16
    number += 1
"""


class Slow:
    """A server that answers each byte by one, 100 ms later."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while connection.recv(1):
                threading.Event().wait(0.1)
                connection.send(b"!")

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


def run(probe: Any, programs: list[Program], code: str, *arguments: str) -> list[Slice]:
    """Of a program observed to its end, the slices of its main thread in an io_uring."""
    program = Program(URING + code, *arguments)
    programs.append(program)
    probe.track(program.pid)
    program.go()
    wait_until(lambda: _read(probe) or program.process.poll() is not None, "the note-taker, or the end")
    said = program.process.stdout.readline() if program.process.stdout else ""
    if said.startswith("no io_uring"):
        pytest.skip(said.strip())
    assert program.join() == 0
    probe.exit_of(program.pid)
    return [s for s in probe.slices(program.pid) if s.tid == program.pid and s.state == Wait.IO_URING]


def _read(probe: Any) -> bool:
    """Read the rings, as the daemon does, and attach what they ask for."""
    probe.events()
    made: bool = probe.kernel.makes_notes
    return made


def test_an_answer_that_io_uring_waits_for_has_a_peer(probe: Any, programs: list[Program]) -> None:
    """The socket that ended the wait is the one that was received from."""
    with Slow() as server:
        slices = run(probe, programs, RECEIVE.replace("FLAGS", "0"), str(server.port))
    assert slices
    assert {(s.peer.remote_port, s.syscall) for s in slices} == {(server.port, 426)}


@pytest.mark.parametrize(
    "code",
    [TIMEOUT, PIPE.replace("FLAGS", "0"), PIPE.replace("FLAGS", "IN_A_WORKER"), WHILE_FLOODED],
    ids=["timeout", "pipe", "worker", "flooded"],
)
def test_what_no_socket_ends_has_none(probe: Any, programs: list[Program], code: str) -> None:
    """A timer or a pipe ends a wait of an io_uring, also while messages for others arrive: it is nobody's."""
    slices = run(probe, programs, code)
    assert slices
    assert {s.peer.remote_port for s in slices} == {0}


@pytest.mark.parametrize(
    ("what", "flags"),
    [("timeout", "0"), *((what, f) for what in ("pipe", "receive", "file") for f in ("0", "IN_A_WORKER"))],
)
def test_the_report_knows_all_of_its_time(tmp_path: Path, what: str, flags: str) -> None:
    """Whatever is waited for and by whom, less than a hundredth of the threads' time is in ``other``."""
    script, report = tmp_path / "uring.py", tmp_path / "report.json"
    code = {"timeout": TIMEOUT, "pipe": PIPE, "receive": RECEIVE, "file": FILE}[what]
    script.write_text(URING + code.replace("FLAGS", flags))
    data = tmp_path / "data"
    data.write_bytes(bytes(400 << 16) if what == "file" else b"")
    with Slow() if what == "receive" else socket.socket() as server:
        argument = str(server.port) if isinstance(server, Slow) else str(data)
        result = whyidle("run", "--json", report, "--", "python3", script, argument)
    assert result.returncode == 0, result.stderr
    if "no io_uring" in result.stdout:
        pytest.skip(result.stdout)
    threads = load(report)["threads"]
    wall = sum(thread["wall_s"] for thread in threads)
    assert sum(thread["states"].get("other", 0.0) for thread in threads) < 0.01 * wall
    main = max(threads, key=lambda thread: thread["wall_s"])
    if what != "file":
        assert main["states"]["event_loop"] > 0.2  # of 4 waits of 100 ms, longer where the host is busy
