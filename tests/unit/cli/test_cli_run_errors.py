"""What goes wrong with ``whyidle run``: each is a message, a fix and a status."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import SAMPLE, FakeDaemon, Wire, whyidle

from whyidle_wire.codec import MAX_TO_CLIENT
from whyidle_wire.records import Failure, Hello, Observe, Welcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.sock"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (None, "command not found"),
        ("file", "not executable"),
        ("directory", "it is a directory"),
    ],
)
def test_command_that_cannot_run(tmp_path: Path, make: str | None, words: str) -> None:
    """A command that is missing, not executable or a directory is refused before a daemon is looked for."""
    command = tmp_path / "agent"
    if make == "file":
        command.write_text("x")
    elif make == "directory":
        command.mkdir()
    done = whyidle("run", "--socket", tmp_path / "none.sock", "--", command)
    what, fix = done.stderr.splitlines()
    assert done.returncode == 1
    assert what.startswith("whyidle: ")
    assert words in what
    assert fix.startswith("  ")
    assert done.stdout == ""


def test_command_is_searched_in_path(tmp_path: Path) -> None:
    """A name without a slash that is not in PATH is named in the error."""
    done = whyidle("run", "--socket", tmp_path / "none.sock", "--", "no-such-program-here")
    assert done.returncode == 1
    assert done.stderr.startswith("whyidle: command not found: no-such-program-here\n")


@pytest.mark.parametrize("text", ["no magic here", "#!/no/such/interpreter\n"])
def test_command_that_the_kernel_refuses(path: Path, tmp_path: Path, text: str) -> None:
    """A file that is executable but cannot be executed is an error with status 1, not a status of its own."""
    command = tmp_path / "agent"
    command.write_text(text)
    command.chmod(0o755)

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.observing()
        wire.wait_for_end()

    with FakeDaemon(path, script):
        done = whyidle("run", "--socket", path, "--", command)
    assert done.returncode == 1
    assert f"cannot run {command}: " in done.stderr


@pytest.mark.parametrize(("code", "status"), [("host", 3), ("internal", 1), ("limit", 1), ("from-2030", 1)])
def test_daemon_refuses(path: Path, tmp_path: Path, code: str, status: int) -> None:
    """A Failure is shown with its hint, gives the right status, and the command never runs."""

    def script(wire: Wire) -> None:
        wire.welcome()
        observe = wire.expect(Observe)
        wire.send(Failure(observe.request, code, "no BTF\x1b[2J here", "boot another kernel"))
        wire.wait_for_end()

    with FakeDaemon(path, script):
        done = whyidle("run", "--socket", path, "--", "touch", tmp_path / "ran")
    assert done.returncode == status
    assert done.stderr == "whyidle: no BTF\ufffd[2J here\n  boot another kernel\n"
    assert not (tmp_path / "ran").exists()


def expect_hello(wire: Wire, answer: bytes) -> None:
    wire.expect(Hello)
    wire.raw(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak this protocol: message of 1213486160 bytes"),
        (b"\x00\x00\x00\x02\xc1\xc1", "does not speak this protocol: not a msgpack message"),
        ((MAX_TO_CLIENT + 1).to_bytes(4, "big"), f"message of {MAX_TO_CLIENT + 1} bytes"),
        (b"", "the daemon closed the connection"),
        (b"\x00\x00", "closed the connection in the middle of a message"),
    ],
)
def test_not_a_daemon(path: Path, answer: bytes, words: str) -> None:
    """Garbage, an oversized frame or silence in place of a welcome is one clear error with status 1."""
    with FakeDaemon(path, lambda wire: expect_hello(wire, answer)):
        done = whyidle("run", "--socket", path, "--", "true")
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_another_protocol_version(path: Path) -> None:
    """A daemon of another version says so, and the fix is named."""

    def script(wire: Wire) -> None:
        wire.expect(Hello)
        wire.send(Failure(0, "protocol", "protocol 1 is not spoken here, only 2"))

    with FakeDaemon(path, script):
        done = whyidle("run", "--socket", path, "--", "true")
    assert done.returncode == 1
    assert "protocol 1 is not spoken here" in done.stderr
    assert "of one release" in done.stderr
    path.unlink()
    with FakeDaemon(path, lambda wire: (wire.expect(Hello), wire.send(Welcome(2, "9", 1, {})))):
        done = whyidle("run", "--socket", path, "--", "true")
    assert done.returncode == 1
    assert "protocol 2 spoken by the daemon, 1 by this client" in done.stderr


@pytest.mark.parametrize("last_words", [b"", b"\x00\x00\x00\x01\xc1", b"\xff\xff\xff\xff", b"\x00\x00"])
def test_daemon_dies_while_the_command_runs(path: Path, tmp_path: Path, last_words: bytes) -> None:
    """The command runs on to its end; then the report is said to be lost, with the command's status."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.observing()
        wire.raw(last_words)
        wire.close()
        fifo.write_text("go on\n")  # the command waits for this, so the daemon was gone before its end

    with FakeDaemon(path, script):
        done = whyidle("run", "--socket", path, "--", "sh", "-c", f"read line <{fifo}; echo done; exit 4")
    assert done.stdout == "done\n"
    assert done.returncode == 1
    what, fix = done.stderr.splitlines()
    assert what.startswith("whyidle: the report is lost: ")
    assert "the command ran to its end with status 4" in fix


@pytest.mark.parametrize("where", ["missing/r.json", "."])
def test_json_that_could_not_be_written(tmp_path: Path, where: str) -> None:
    """A report that would have nowhere to go is refused before the command runs."""
    done = whyidle(
        "run", "--socket", tmp_path / "x", "--json", tmp_path / where, "--", "touch", tmp_path / "ran"
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"whyidle: cannot write {tmp_path / where}: ")
    assert not (tmp_path / "ran").exists()


def test_unreadable_report(path: Path, tmp_path: Path) -> None:
    """A report that breaks the contract is an error after the JSON was written, not a traceback."""
    broken: dict[str, Any] = {**SAMPLE, "threads": None}
    with FakeDaemon(path, lambda wire: (wire.welcome(), wire.observing(), wire.report(broken))):
        done = whyidle("run", "--socket", path, "--json", tmp_path / "r.json", "--", "true")
    assert done.returncode == 1
    assert "the report cannot be shown" in done.stderr
    assert json.loads((tmp_path / "r.json").read_text()) == broken


def test_no_command() -> None:
    """run without a command is wrong usage, with an example."""
    for arguments in (["run"], ["run", "--"]):
        done = whyidle(*arguments)
        assert done.returncode == 2
        assert "whyidle run -- python agent.py" in done.stderr
