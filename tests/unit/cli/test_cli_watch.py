"""``whyidle watch`` against a fake daemon."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from fake_daemon import COMMAND, OBSERVATION, SAMPLE, FakeDaemon, Wire, whyidle

from whyidle_cli.render.units import TIMES
from whyidle_wire.codec import MAX_TO_CLIENT, FrameReader
from whyidle_wire.records import (
    Dropped,
    Failure,
    FindingEvent,
    ProcessEvent,
    Record,
    SliceEvent,
    Subscribe,
)

FINDING = {**SAMPLE["findings"][0], "thread": "py\x1b]0;owned\x07"}
PEER = {"host": "h", "address": "::1", "port": 80}
SENT: list[Record] = [
    FindingEvent(OBSERVATION, FINDING),
    SliceEvent(OBSERVATION, 1, 2, "w\n1", "network", 1.5, 0.25, "recvfrom", PEER),
    ProcessEvent(OBSERVATION, "exited", 4, 1, ("sh", "-c", "\x1b[2J"), 3),
    Dropped(17),
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.sock"


def stream(wire: Wire) -> Subscribe:
    wire.welcome()
    subscribe = wire.subscribed()
    wire.send(*SENT)
    return subscribe


def test_text(path: Path) -> None:
    """One readable line per record, nothing in it that a terminal obeys, drops as a warning."""
    with FakeDaemon(path, stream) as daemon:
        done = whyidle(
            "watch", "--events", "--kind", "slow_dns", "--kind", "cpu_starved", "--pid", 5, "--socket", path
        )
    assert daemon.said == Subscribe(1, ("slow_dns", "cpu_starved"), 5, True)
    finding, wait, process = (line[10:] for line in done.stdout.splitlines())
    assert finding == (
        "HIGH    blocking network call  py\ufffd]0;owned\ufffd/4711  system call recvfrom → 127.0.0.1:8899"
        f"  5 {TIMES} 1.48 s (longest 1.61 s) = 7.41 s  saves up to 5.79 s"
    )
    assert wait == "     1.500 s  network     w 1/2  recvfrom → h ([::1]:80)  250 ms"
    assert process == "process 4 exited sh -c \ufffd[2J status 3"
    assert "whyidle: 17 records are missing here" in done.stderr
    assert done.returncode == 1
    assert "whyidle: the daemon closed the connection" in done.stderr


def test_json(path: Path) -> None:
    """--json writes every record, drops too, as one object per line with its name."""
    with FakeDaemon(path, stream):
        done = whyidle("watch", "--json", "--socket", path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["record"] for line in lines] == ["FindingEvent", "SliceEvent", "ProcessEvent", "Dropped"]
    assert lines[0]["finding"] == FINDING
    assert lines[3]["count"] == 17


def test_msgpack(path: Path) -> None:
    """--msgpack writes the frames of the wire."""
    with FakeDaemon(path, stream):
        done = subprocess.run(
            [*COMMAND, "watch", "--msgpack", "--socket", str(path)], capture_output=True, check=False
        )
    assert FrameReader(MAX_TO_CLIENT).feed(done.stdout) == SENT


def test_ctrl_c(path: Path) -> None:
    """Ctrl-C is how a stream ends: status 0, nothing on standard error."""

    def script(wire: Wire) -> None:
        stream(wire)
        wire.wait_for_end()

    with FakeDaemon(path, script):
        process = subprocess.Popen(
            [*COMMAND, "watch", "--json", "--socket", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr == ""


def test_closed_pipe(path: Path) -> None:
    """A reader that has seen enough (| head) ends the stream without a traceback."""

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.subscribed()
        try:
            while True:
                wire.send(Dropped(1))
        except OSError:
            pass

    with FakeDaemon(path, script):
        done = subprocess.run(
            ["sh", "-c", '"$@" | head -n 1', "sh", *COMMAND, "watch", "--json", "--socket", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == '{"record": "Dropped", "count": 1}\n'
    assert done.stderr == ""


def test_refused(path: Path) -> None:
    """A Failure in answer to the subscription, or later, is shown with its hint."""

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.send(Failure(wire.expect(Subscribe).request, "limit", "too many clients", "close some"))

    with FakeDaemon(path, script):
        done = whyidle("watch", "--socket", path)
    assert (done.returncode, done.stderr) == (1, "whyidle: too many clients\n  close some\n")


def test_garbage(path: Path) -> None:
    """Garbage in the stream is one clear error."""
    with FakeDaemon(path, lambda wire: (wire.welcome(), wire.subscribed(), wire.raw(b"\0\0\0\1\xc1"))):
        done = whyidle("watch", "--socket", path)
    assert done.returncode == 1
    assert "does not speak this protocol" in done.stderr


def test_no_daemon(path: Path) -> None:
    """Without a system daemon there is nothing to watch: status 3, and where to look for it."""
    done = whyidle("watch", "--socket", path)
    assert done.returncode == 3
    assert "sudo whyidle install" in done.stderr or "systemctl status whyidled" in done.stderr


def test_socket_of_a_dead_daemon(path: Path) -> None:
    """A socket file that nobody listens on is recognised as left over."""
    with FakeDaemon(path, stream):
        whyidle("watch", "--socket", path)
    done = whyidle("watch", "--socket", path)
    assert done.returncode == 3
    assert "left by a daemon that is gone" in done.stderr


def test_usage() -> None:
    """An unknown kind is wrong usage, and so are two forms at once."""
    assert whyidle("watch", "--kind", "nonsense").returncode == 2
    assert whyidle("watch", "--json", "--msgpack").returncode == 2
