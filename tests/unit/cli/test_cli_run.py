"""``whyidle run`` against a fake daemon: the command's life, and everybody's death."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_daemon import COMMAND, OBSERVATION, SAMPLE, FakeDaemon, Wire, whyidle

from whyidle_wire.records import Finish, Hello, Observe, Progress


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.sock"


def usual(wire: Wire) -> tuple[Hello, Observe, Finish]:
    return wire.welcome(), wire.observing(), wire.report()


def test_status_report_and_order(path: Path) -> None:
    """The command's status is returned and told to the daemon; the report follows the command's output."""
    with FakeDaemon(path, usual) as daemon:
        done = whyidle("run", "--socket", path, "--", "sh", "-c", "echo pid $$; exit 42")
    hello, observe, finish = daemon.said
    assert done.returncode == 42
    assert finish == Finish(OBSERVATION, 42)
    assert done.stdout.splitlines()[0] == f"pid {observe.pid}"
    assert "blocking network call" in done.stdout
    assert done.stderr == ""
    assert observe.command == ("sh", "-c", "echo pid $$; exit 42")
    assert observe.progress_interval_s == 0.0
    assert hello.protocol == 1
    assert hello.client.startswith("whyidle ")


def test_command_waits_until_it_is_observed(path: Path, tmp_path: Path) -> None:
    """The process that is observed exists, but has not executed the command, until the daemon is ready."""
    mark = tmp_path / "ran"

    def script(wire: Wire) -> str:
        wire.welcome()
        observe = wire.expect(Observe)
        before = Path(f"/proc/{observe.pid}/comm").read_text().strip()
        assert not mark.exists()
        wire._records.insert(0, observe)
        wire.observing()
        wire.report()
        return before

    with FakeDaemon(path, script) as daemon:
        done = whyidle("run", "--socket", path, "--", "touch", mark)
    assert done.returncode == 0
    assert mark.exists()
    assert daemon.said != "touch"


def test_killed_command(path: Path) -> None:
    """A command that a signal killed gives 128 + its number, like in a shell."""
    with FakeDaemon(path, usual) as daemon:
        done = whyidle("run", "--socket", path, "--", "sh", "-c", "kill -KILL $$")
    assert done.returncode == 137
    assert daemon.said[2].exit_status == 137


def test_separator_belongs_to_the_command(path: Path) -> None:
    """Only the first -- is whyidle's; without one, everything from the first word on is the command."""
    for arguments in (["--", "echo", "--", "--json", "x"], ["echo", "--", "--json", "x"]):
        with FakeDaemon(path, usual) as daemon:
            done = whyidle("run", "--socket", path, *arguments)
        assert daemon.said[1].command == ("echo", "--", "--json", "x")
        assert done.stdout.splitlines()[0] == "-- --json x"
        path.unlink()


def test_command_inherits_what_it_would_without_whyidle(path: Path, tmp_path: Path) -> None:
    """Environment, descriptors, signal dispositions, umask and standard input are those of a direct run."""
    look = (
        "env | sort | grep -v ^_=; ls /proc/self/fd | tr '\\n' ' ';"
        " grep -E '^Sig(Blk|Ign|Cgt)|^Umask' /proc/self/status; cat; cat <&5"
    )
    environment = {"PATH": os.environ["PATH"], "LANG": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "five").write_text("from descriptor 5\n")

    def outcome(command: list[str]) -> str:
        return subprocess.run(
            ["sh", "-c", f'exec 5<{tmp_path}/five; umask 027; "$@"', "sh", *command],
            input="from standard input\n",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    direct = outcome(["sh", "-c", look])
    with FakeDaemon(path, usual):
        observed = outcome([*COMMAND, "run", "--socket", str(path), "--", "sh", "-c", look])
    assert observed.partition("\nwhyidle  ")[0] == direct
    assert "from descriptor 5" in direct


@pytest.mark.parametrize("before", ["env --ignore-signal=CHLD", "exec 0<&- 1>&- 2>&-;"])
def test_what_a_careless_parent_left(path: Path, tmp_path: Path, before: str) -> None:
    """Children that nobody waits for, closed descriptors: the command inherits that, and whyidle bears it."""
    code = (
        "import os, sys; status = open('/proc/self/status').read();"
        "ignored = int(status.partition('SigIgn:')[2].split()[0], 16) >> 16 & 1;"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(f'{{ignored}} {{sys.stdout is None}}'); sys.exit(6)"
    )
    with FakeDaemon(path, usual):
        command = ["run", "--socket", str(path), "--", sys.executable, "-c", code]
        shell = ["sh", "-c", f'{before} "$@"', "sh"]
        done = subprocess.run([*shell, *COMMAND, *command], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (6, "")
    assert (tmp_path / "seen").read_text() == ("1 False" if "env" in before else "0 True")


class Started:
    """A whyidle run whose command has said that it is ready."""

    def __init__(self, path: Path, code: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--socket", str(path), "--", sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def end(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr


EXIT_5_ON_TERM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_sigterm_is_passed_on(path: Path) -> None:
    """SIGTERM to whyidle reaches the command, and the report still comes."""
    with FakeDaemon(path, usual) as daemon:
        started = Started(path, EXIT_5_ON_TERM)
        started.process.send_signal(signal.SIGTERM)
        status, stdout, _ = started.end()
    assert status == 5
    assert daemon.said[2].exit_status == 5
    assert "FINDINGS" in stdout


def test_ctrl_c_ends_the_command_and_not_the_report(path: Path) -> None:
    """What a terminal does on Ctrl-C, a SIGINT to the whole group, kills the command; the report follows."""
    code = "import signal; signal.signal(2, signal.SIG_DFL); print('ready', flush=True); signal.pause()"
    with FakeDaemon(path, usual) as daemon:
        started = Started(path, code)
        os.killpg(started.process.pid, signal.SIGINT)
        status, stdout, stderr = started.end()
    assert status == 130
    assert daemon.said[2].exit_status == 130
    assert "FINDINGS" in stdout
    assert stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_without_a_terminal_an_interrupt_is_passed_on(path: Path, number: int) -> None:
    """What stops a container, or a supervisor's child, is meant for the command: nobody else sends it."""
    code = f"import signal; signal.signal({int(number)}, signal.SIG_DFL); print('ready', flush=True); "
    before = signal.signal(number, signal.SIG_DFL)  # who runs the tests in the background may have it ignored
    with FakeDaemon(path, usual):
        try:
            started = Started(path, code + "signal.pause()")
        finally:
            signal.signal(number, before)
        started.process.send_signal(number)
        status, stdout, _ = started.end()
    assert status == 128 + number
    assert "FINDINGS" in stdout


def test_a_terminal_sends_ctrl_c_itself() -> None:
    """Where there is one an interrupt is not passed on: a second one may mean something else."""
    code = "from whyidle_cli.commands.run import _has_terminal; raise SystemExit(_has_terminal())"
    assert subprocess.run(["setsid", sys.executable, "-c", code], check=False).returncode == 0
    master, slave = pty.openpty()
    done = subprocess.run(["setsid", "--ctty", sys.executable, "-c", code], stdin=slave, check=False)
    os.close(slave)
    os.close(master)
    assert done.returncode == 1


def test_ctrl_c_is_left_to_a_command_that_handles_it(path: Path) -> None:
    """A command that survives Ctrl-C is still observed afterwards."""
    code = "import signal; signal.signal(2, signal.SIG_IGN)" + EXIT_5_ON_TERM
    with FakeDaemon(path, usual):
        started = Started(path, code)
        os.killpg(started.process.pid, signal.SIGINT)
        started.process.send_signal(signal.SIGTERM)
        status, stdout, _ = started.end()
    assert status == 5
    assert "FINDINGS" in stdout


def test_ctrl_c_gives_up_a_report_that_does_not_come(path: Path) -> None:
    """When the command has ended, Ctrl-C ends the wait for the daemon, with status 130."""
    started: list[Started] = []
    known = threading.Event()

    def script(wire: Wire) -> None:
        wire.welcome()
        wire.observing()
        wire.expect(Finish)
        assert known.wait(30)
        started[0].process.send_signal(signal.SIGINT)
        wire.wait_for_end()

    with FakeDaemon(path, script):
        started.append(Started(path, "import sys; print('ready', flush=True); sys.stdout.close()"))
        known.set()
        status, _, stderr = started[0].end()
    assert status == 130
    assert stderr == "whyidle: interrupted\n"


def test_json_file(path: Path, tmp_path: Path) -> None:
    """--json FILE writes the whole report beside the text, replaces an old one, and leaves nothing else."""
    out = tmp_path / "out" / "r.json"
    out.parent.mkdir()
    out.write_text("old")
    with FakeDaemon(path, usual):
        done = whyidle("run", "--socket", path, "--json", out, "--", "true")
    assert done.returncode == 0
    assert json.loads(out.read_text()) == SAMPLE
    assert "FINDINGS" in done.stdout
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("more", [[], ["--json", "-"]])
def test_reader_that_has_gone(path: Path, more: list[str]) -> None:
    """A closed pipe in place of standard output loses the text, but not the command's status."""
    closed, stdout = os.pipe()
    os.close(closed)
    with FakeDaemon(path, usual):
        done = subprocess.run(
            [*COMMAND, "run", *more, "--socket", str(path), "--", "sh", "-c", "exit 6"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    os.close(stdout)
    assert (done.returncode, done.stderr) == (6, b"")


def test_full_disk(path: Path) -> None:
    """A report that standard output does not take is an error that says why."""
    with FakeDaemon(path, usual), Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "run", "--socket", str(path), "--", "true"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("whyidle: cannot write to standard output: No space left on device\n")


def test_json_to_standard_output(path: Path) -> None:
    """--json - writes only the JSON, and the command's status is still returned."""
    with FakeDaemon(path, usual):
        done = whyidle("run", "--socket", path, "--json", "-", "--", "sh", "-c", "exit 6")
    assert json.loads(done.stdout) == SAMPLE
    assert done.returncode == 6


PROGRESS = Progress(OBSERVATION, 12.3, 0.23, "network 127.0.0.1:8080 (recvfrom) 0.4 s\x1b[31m", 2, 7, 0)


def with_progress(wire: Wire) -> Observe:
    wire.welcome()
    observe = wire.observing()
    wire.send(PROGRESS, Progress(OBSERVATION + 1, 99.0, None, None, 1, 1, 0))
    wire.report()
    return observe


def test_no_live_line_in_a_pipe(path: Path) -> None:
    """Progress is neither asked for nor shown where standard error is not a terminal."""
    with FakeDaemon(path, with_progress) as daemon:
        done = whyidle("run", "--socket", path, "--", "true")
    assert done.stderr == ""
    assert daemon.said.progress_interval_s == 0.0


def test_live_lines_on_request(path: Path) -> None:
    """--live writes whole, sanitised lines where there is no terminal, and only of this observation."""
    with FakeDaemon(path, with_progress) as daemon:
        done = whyidle("run", "--live", "--socket", path, "--", "true")
    assert done.stderr == (
        "⏱ 12.3 s  engine busy 23 %  waiting: network 127.0.0.1:8080 (recvfrom) 0.4 s\ufffd[31m"
        "  2 processes\n"
    )
    assert daemon.said.progress_interval_s > 0
