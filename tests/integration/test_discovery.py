"""The daemon finds what its rules name, keeps it observed, and hands it over to whoever asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from harness_cli import Daemon, whyidle
from whyidle_wire.records import Finish, Observe, Observing, Report

pytestmark = pytest.mark.bpf

RULE = """
[discovery]
defaults = false
[[discovery.rule]]
name = "{name}"
command = ["*{mark}*"]
"""
SLEEPER = "import sys, time\nwhile True: time.sleep(0.05)"


class Sleeper:
    """A program that a rule names by a word in its command line."""

    def __init__(self, mark: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SLEEPER, mark])
        self.pid = self.process.pid

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def listed(daemon: Daemon) -> dict[int, dict[str, Any]]:
    done = whyidle("ps", "--json", "--socket", daemon.socket)
    assert done.returncode == 0, done.stderr
    return {target["pid"]: target for target in json.loads(done.stdout)}


def test_found_at_the_start_and_later(tmp_path: Path) -> None:
    """What runs already, what is started later, and the table that says how each was found."""
    mark = f"mark-{os.getpid()}-a"
    with Sleeper(mark) as early, Daemon(tmp_path, config=RULE.format(name="by mark", mark=mark)) as daemon:
        wait_until(lambda: early.pid in listed(daemon), "the early one")
        with Sleeper(mark) as late:
            wait_until(lambda: late.pid in listed(daemon), "the late one")
            row = listed(daemon)[late.pid]
            assert (row["rule"], row["client"], row["user"]) == ("by mark", None, "root")
            assert row["command"][0] == sys.executable
            assert row["state"] in ("sleep", "running")
            assert row["processes"] == 1
            table = whyidle("ps", "--socket", daemon.socket).stdout.splitlines()
            assert table[0].split() == ["PID", "USER", "SINCE", "STATE", "ENGINE", "WHERE", "FOUND", "BY",
                                        "COMMAND"]  # fmt: skip
            assert any(str(late.pid) in line and "by mark" in line for line in table)
        wait_until(lambda: late.pid not in listed(daemon), "its end to be noticed")
        assert early.pid in listed(daemon)


def test_attach_takes_a_found_target_over_and_gives_it_back(tmp_path: Path) -> None:
    """A client gets a report of a process that was found; afterwards the daemon observes it again."""
    mark = f"mark-{os.getpid()}-b"
    with Sleeper(mark) as program, Daemon(tmp_path, config=RULE.format(name="m", mark=mark)) as daemon:
        wait_until(lambda: program.pid in listed(daemon), "it to be found")
        with daemon.client() as client:
            client.send(Observe(1, program.pid, ("x",), 0.0))
            answer = client.receive(20)
            assert isinstance(answer, Observing)
            row = listed(daemon)[program.pid]
            assert (row["rule"], row["client"]) == (None, "test")
            second = whyidle("attach", program.pid, "--duration", "1", "--socket", daemon.socket)
            assert second.returncode == 1
            assert "another client" in second.stderr
            client.send(Finish(answer.observation))
            report = client.receive(20)
            assert isinstance(report, Report)
            assert report.report["threads"]
        wait_until(lambda: (listed(daemon).get(program.pid) or {}).get("rule") == "m", "it to be found again")


def test_reload(tmp_path: Path) -> None:
    """SIGHUP uses the new rules; a bad file changes nothing and is logged with its mistake."""
    one, two = f"mark-{os.getpid()}-one", f"mark-{os.getpid()}-two"
    with (
        Sleeper(one) as first,
        Sleeper(two) as second,
        Daemon(tmp_path, config=RULE.format(name="r", mark=one)) as daemon,
    ):
        wait_until(lambda: set(listed(daemon)) == {first.pid}, "the first")
        daemon.config.write_text("[discovery]\ndefualts = false\n")
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "did you mean 'defaults'?" in daemon.said(), "the mistake in the log")
        assert set(listed(daemon)) == {first.pid}
        daemon.config.write_text(RULE.format(name="r", mark=two))
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(listed(daemon)) == {second.pid}, "the second in place of the first")


LATE = """
import mmap, sys
sys.stdin.readline()
with open(sys.argv[1], "rb") as file:
    library = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
print("mapped", flush=True)
sys.stdin.readline()
"""


def test_a_library_that_is_mapped_late(tmp_path: Path) -> None:
    """A program becomes an agent when it maps an engine's library, however long after its start."""
    library = tmp_path / "libllama.so.1"
    library.write_bytes(Path("/bin/true").read_bytes())
    mark = f"mark-{os.getpid()}-late"
    # Not the built-in rule, which by now matches the process that runs these tests.
    config = RULE.format(name="late", mark=mark) + "maps = ['libllama.so*']\n"
    with (
        Daemon(tmp_path, config=config) as daemon,
        subprocess.Popen(
            [sys.executable, "-c", LATE, library, mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        assert program.stdin
        assert program.stdout
        # It has been looked at and left alone; it would be looked at again only 4 s later.
        wait_until(lambda: whyidle("ps", "--socket", daemon.socket).returncode == 0, "the daemon")
        assert program.pid not in listed(daemon)
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "mapped\n"
        wait_until(lambda: program.pid in listed(daemon), "it to be found")
        assert listed(daemon)[program.pid]["rule"] == "late"
        program.kill()


def cgroup_root() -> Path:
    """Where a cgroup can be made that ``/proc/PID/cgroup`` shows: v2, or the cpu controller of v1."""
    for folder in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")):
        if (folder / "cgroup.procs").exists():
            return folder
    pytest.skip("no cgroup hierarchy is mounted")


@pytest.mark.parametrize(
    ("names", "container", "unit"),
    [
        (["docker-{id}.scope"], "docker", None),
        (["libpod-{id}.scope", "container"], "podman", None),
        (["wi-{id8}.service", "cri-containerd-{id}.scope"], "containerd", "wi-{id8}.service"),
        (["runtime-of-tomorrow", "{id}"], None, None),
    ],
)
def test_where_a_target_runs(
    tmp_path: Path, names: list[str], container: str | None, unit: str | None
) -> None:
    """The list and the report name container and unit; a runtime that nobody knows is no error."""
    number = os.urandom(32).hex()
    folder = cgroup_root().joinpath(*(name.format(id=number, id8=number[:8]) for name in names))
    folder.mkdir(parents=True)
    mark = f"mark-{number[:8]}"
    unit = unit and unit.format(id8=number[:8])
    try:
        with Sleeper(mark) as program:
            (folder / "cgroup.procs").write_text(str(program.pid))
            with Daemon(tmp_path, config=RULE.format(name="c", mark=mark)) as daemon:
                wait_until(lambda: program.pid in listed(daemon), "it to be found")
                row = listed(daemon)[program.pid]
                assert row["unit"] == unit
                assert row["container"] == (container and {"runtime": container, "id": number})
                report = tmp_path / "r.json"
                attached = whyidle(
                    "attach", program.pid, "--duration", "0.2", "--json", report, "--socket", daemon.socket
                )
                assert attached.returncode == 0, attached.stderr
                target = json.loads(report.read_text())["target"]
                assert (target["container"], target["unit"]) == (row["container"], unit)
    finally:
        for path in [folder, *folder.parents][: len(names)]:
            wait_until(lambda path=path: not (path / "cgroup.procs").read_text(), "the cgroup to be empty")
            path.rmdir()


def test_one_user_does_not_take_all_the_room(tmp_path: Path) -> None:
    """Anybody can start what a rule names: nobody but root has more than half of what is observed."""
    mark = f"mark-{os.getpid()}-room"
    config = RULE.format(name="r", mark=mark).replace("[discovery]", "[discovery]\nmax_targets = 4")
    theirs = [
        subprocess.Popen(["/usr/bin/python3", "-c", SLEEPER, mark], user=61001, group=61001, cwd="/")
        for _ in range(4)
    ]
    try:
        with Daemon(tmp_path, config=config) as daemon:
            wait_until(lambda: "observed already" in daemon.said(), "the room to be full")
            assert len(listed(daemon)) == 2
            with Sleeper(mark) as roots:
                wait_until(lambda: roots.pid in listed(daemon), "root's to be found")
    finally:
        for process in theirs:
            process.kill()
            process.wait()


def test_a_storm_of_execs_costs_a_bounded_share(tmp_path: Path) -> None:
    """Hundreds of programs per second cost the daemon next to nothing, and it still finds its own."""
    mark = f"mark-{os.getpid()}-storm"
    with Daemon(tmp_path, config=RULE.format(name="s", mark=mark)) as daemon:
        wait_until(lambda: whyidle("ps", "--socket", daemon.socket).returncode == 0, "the daemon")
        before, began, execs = cpu_s(daemon.process.pid), time.monotonic(), 0
        with Sleeper(mark) as program:
            while time.monotonic() - began < 3:
                execs += 10
                subprocess.run(
                    ["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; done"], check=True
                )
            spent = cpu_s(daemon.process.pid) - before
            wait_until(lambda: program.pid in listed(daemon), "it in the storm")
        assert execs > 100
        # One look per second, at most 25 candidates per quarter of a second; without the table in the kernel
        # each exec would be a wake-up and a look. Two clock ticks of slack.
        assert spent <= 0.05 * (time.monotonic() - began) + 0.02


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
