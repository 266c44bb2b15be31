"""Whose memory was being read when a daemon ended, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from whyidle_daemon.proc import Owners, Proc
from whyidle_daemon.reading_guard import (
    BANNED_S,
    LIMIT_S,
    LOOKS,
    MAX_BANS,
    Noted,
    Process,
    ReadingGuard,
    line,
    parsed,
    whole,
)

NOW = 1_800_000_000.0
THEIRS, OURS, ROOTS = Process(70, 7000, 1000), Process(80, 8000, 1001), Process(90, 9000, 0)
ALL = {process.pid: process for process in (THEIRS, OURS, ROOTS)}


class Host:
    """Three processes, a clock, and the timer, which is the one of pytest's own time limit here."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.now = state, NOW
        self.boot = state / "boot_id"
        self.boot.write_text("11111111-0000\n")
        self.timers: list[float] = []
        monkeypatch.setattr(signal, "setitimer", lambda which, seconds: self.timers.append(seconds))
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
        self.ids = dict(ALL)
        self.owner = lambda uid: uid

    def started(self, pid: int) -> int | None:
        return self.ids[pid].started if pid in self.ids else None

    def owners(self, pid: int) -> Owners | None:
        return Owners(self.ids[pid].uid, 0, 0, 0) if pid in self.ids else None

    def daemon(self) -> ReadingGuard:
        return ReadingGuard(cast(Proc, self), self.state, lambda: self.now, self.boot, self.owner)

    def hang(self, pid: int) -> None:
        """A daemon reads a process's memory, and does not come back."""
        guard = self.daemon()
        process = guard.admit(pid)
        assert process is not None
        guard.begin(process)
        for _ in range(LOOKS):
            self.now += LIMIT_S / LOOKS
            guard.look()

    def admitted(self) -> list[int]:
        guard = self.daemon()
        return [pid for pid in ALL if guard.admit(pid) is not None]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("pid", "left", "said"),
    [
        (70, [80, 90], "of the processes of user 1000"),
        (80, [70, 90], "user 1001"),
        (90, [70, 80], "this process"),
    ],
)
def test_who_hung_the_daemon_before_is_not_read(
    host: Host, pid: int, left: list[int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor anybody of that user: of root, the process alone. How to lift it is said, once."""
    host.hang(pid)
    assert host.admitted() == left
    (warning,) = [record.getMessage() for record in caplog.records]
    assert said in warning
    assert f"process {pid} " in warning
    assert f"remove {host.state / 'reading'} and restart whyidled" in warning
    assert host.admitted() == left
    assert len(caplog.records) == 1
    (host.state / "reading").unlink()
    assert host.admitted() == [70, 80, 90]


def test_a_power_cut_bans_nobody(host: Host) -> None:
    """What the daemon of another boot read when it ended did not end it, or hangs nobody now."""
    host.hang(70)
    host.boot.write_text("22222222-0000\n")
    assert host.admitted() == [70, 80, 90]


def test_another_process_of_root_is_read(host: Host) -> None:
    """Also one that got its number, and that of a user who was not root is not."""
    for pid in (90, 70):
        host.hang(pid)
    host.ids = {pid: process._replace(started=1) for pid, process in ALL.items()}
    assert host.admitted() == [80, 90]


def test_a_ban_ends_after_a_week(host: Host) -> None:
    """Whatever the clock says meanwhile; a running daemon lets it end as well."""
    host.hang(70)
    assert host.admitted() == [80, 90]
    guard = host.daemon()
    host.now += BANNED_S - LIMIT_S
    assert guard.admit(70) is None
    host.now += 2 * LIMIT_S
    assert guard.admit(70) == THEIRS
    assert host.admitted() == [70, 80, 90]
    host.now = NOW
    assert host.admitted() == [70, 80, 90]


def test_a_daemon_that_ends_otherwise_bans_nobody(host: Host) -> None:
    """In good order, between two turns, or killed while it read, and started again a minute later."""
    guard = host.daemon()
    for pid in (70, 80, 90):
        process = guard.admit(pid)
        assert process is not None
        guard.begin(process)
        guard.look()
    guard.rest()
    for _ in range(LOOKS):
        guard.look()
    with guard.reading(70) as may:
        assert may
        guard.look()
        assert parsed((host.state / "reading").read_bytes()) == (None, ())
        host.now += 60
        assert host.admitted() == [70, 80, 90]
    assert (host.state / "reading").stat().st_mode & 0o777 == 0o600


def test_what_comes_back_is_no_hang(host: Host) -> None:
    """A slow one is noted while it lasts, with its user, and not any more when it is over."""
    guard = host.daemon()
    with guard.reading(70):
        for _ in range(LOOKS):
            guard.look()
        assert parsed((host.state / "reading").read_bytes())[0] == Noted(THEIRS, host.now, "11111111")
    assert parsed((host.state / "reading").read_bytes()) == (None, ())
    assert host.admitted() == [70, 80, 90]


def test_one_is_read_while_another_is(host: Host) -> None:
    """The timer is that of the whole turn, and what hangs after is the outer one's."""
    guard = host.daemon()
    guard.begin(OURS)
    with guard.reading(70):
        assert host.timers == [LIMIT_S]
    assert host.timers == [LIMIT_S]
    for _ in range(LOOKS):
        guard.look()
    assert parsed((host.state / "reading").read_bytes())[0] == Noted(OURS, host.now, "11111111")
    guard.rest()
    assert host.timers == [LIMIT_S, 0]


def test_who_is_banned_is_asked_nothing(host: Host) -> None:
    """Not for its command line either: its name, which is the kernel's, stands for that."""
    host.hang(70)
    guard = host.daemon()
    with guard.reading(70) as his, guard.reading(80) as ours:
        assert (his, ours) == (False, True)
    proc = Proc()
    proc.under = lambda pid: nullcontext(False)
    own = os.getpid()
    assert proc.command(own) == (Path("/proc/self/comm").read_text().strip(),)
    assert list(proc.mappings(own)) == []
    assert proc.read(own, "environ") == b""


def test_subordinate_users_are_one(host: Host) -> None:
    """Somebody may act as 65,536 users, and would have a restart for each."""
    host.owner = lambda uid: 1000 if uid in (1001, 100_007) else uid
    host.ids[71] = Process(71, 7100, 100_007)
    host.hang(71)
    assert host.admitted() == [90]


def test_the_list_is_bounded(host: Host) -> None:
    """The newest stay."""
    for uid in range(2000, 2100):
        host.ids[70] = THEIRS._replace(uid=uid)
        host.hang(70)
    host.admitted()
    bans = parsed((host.state / "reading").read_bytes())[1]
    assert [ban.process.uid for ban in bans] == list(range(2100 - MAX_BANS, 2100))


NOTE = line(Noted(THEIRS, NOW))
BAN = Noted(OURS, NOW - 60)


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (b"", [70, 80, 90]),
        (NOTE, [80, 90]),  # no line of bans
        (NOTE[:40], [70, 80, 90]),
        (NOTE[:100], [80, 90]),  # all but blanks
        (NOTE + b"[" * 50_000, [80, 90]),
        (NOTE + whole([BAN])[128:-30], [80, 90]),
        (whole([BAN]), [70, 90]),
        (whole([BAN]) + b"what an earlier one had there", [70, 90]),
        (whole([BAN] * 10_000), [70, 80, 90]),
        (line(None) + b'[1, null, {}, {"pid": "70"}, %s' % whole([BAN])[129:], [70, 90]),
        (b"\xff" * 128 + whole([BAN])[128:], [70, 90]),
        (b"\0" * 4096, [70, 80, 90]),
        (bytes(range(256)) * 4096, [70, 80, 90]),
    ],
    ids=map(str, range(13)),
)
def test_any_file_is_read(host: Host, data: bytes, left: list[int]) -> None:
    """Torn, cut, too long or nonsense: what is in it and makes sense counts, and it is good afterwards."""
    (host.state / "reading").write_bytes(data)
    host.now += LIMIT_S
    assert host.admitted() == left
    assert len((host.state / "reading").read_bytes()) < 1 << 14
    assert host.admitted() == left


@pytest.mark.parametrize("value", [-1, True, None, "1", [], {}, 1 << 63, 1e999, float("nan")])
@pytest.mark.parametrize("name", ["pid", "started", "uid", "at"])
def test_no_number_is_believed(name: str, value: Any) -> None:
    """What is out of range is no note."""
    table = {**THEIRS._asdict(), "at": NOW, name: value}
    assert parsed(json.dumps(table).encode()) == (None, ())


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "no state"])
def test_without_a_file_there_is_still_the_timer(host: Host, kind: str) -> None:
    """Nothing is followed, nothing hangs, and everybody is read."""
    path = host.state / "reading"
    elsewhere = host.state / "elsewhere"
    if kind == "link":
        elsewhere.write_bytes(b"precious")
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        host.state = host.state / "missing"
    guard = host.daemon()
    process = guard.admit(70)
    assert process is not None
    guard.begin(process)
    guard.rest()
    assert host.timers == [LIMIT_S, 0]
    if kind == "link":
        assert elsewhere.read_bytes() == b"precious"


def test_the_timer_is_set_once_a_turn(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processes are read in it; a turn in which none is costs nothing."""
    writes: list[bytes] = []
    guard = host.daemon()
    monkeypatch.setattr(os, "pwrite", lambda _, data, at: writes.append(data))
    guard.rest()
    assert (host.timers, writes) == ([], [])
    for process in (THEIRS, THEIRS, OURS):
        guard.begin(process)
        guard.begin(process)
    guard.rest()
    guard.rest()
    assert host.timers == [LIMIT_S, 0]
    assert writes == []


def test_a_full_disk_stops_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note is not written; memory is read."""
    guard = host.daemon()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    guard.begin(THEIRS)
    for _ in range(LOOKS):
        guard.look()
    guard.rest()


def test_the_timer_ends_a_process_that_hangs() -> None:
    """Also one that inherited SIGALRM ignored and blocked, whose loop is uvloop's, as the daemon's."""
    code = """
import asyncio, time, uvloop
from whyidle_daemon import reading_guard
from whyidle_daemon.proc import Proc
async def main():
    guard = reading_guard.ReadingGuard(Proc())
    reading_guard.LIMIT_S = 0.3
    guard.begin(reading_guard.Process(1, 1, 1))
    time.sleep(60)
uvloop.run(main())
"""

    def ignoring() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})

    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], check=False, preexec_fn=ignoring)
    assert ended.returncode == -signal.SIGALRM
    assert time.monotonic() - began < 30
