"""The file being written: whose it is, what it never replaces, and a disk that fails."""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import recording_samples as samples

from whyidle_daemon.recording.blocks import Flag
from whyidle_daemon.recording.errors import CannotRecord
from whyidle_daemon.recording.output import Output, Owner, create, wait_for_all
from whyidle_daemon.recording.reader import report
from whyidle_daemon.recording.recorder import Recorder
from whyidle_daemon.recording.records import Begin
from whyidle_probes.events import NO_PEER, Fork, Slice

BEGIN = Begin(1000, (1,), ("x",), "now", 4096, samples.HOST, "1")


def after(event: threading.Event) -> Callable[[int, memoryview], int]:
    """A disk that takes nothing before that."""

    def write(descriptor: int, data: memoryview) -> int:
        event.wait(30)
        return os.write(descriptor, data)

    return write


def test_mode_and_exclusive(tmp_path: Path) -> None:
    """The file is private from its first instant, and one that exists is never touched."""
    path = tmp_path / "a"
    os.close(create(str(path)))
    assert path.stat().st_mode & 0o7777 == 0o600
    path.write_text("precious")
    with pytest.raises(CannotRecord, match="exists") as caught:
        create(str(path))
    assert "never replaces" in caught.value.hint
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    "kind", ["directory", "link", "dangling", "fifo", "no folder", "relative", "null", "long"]
)
def test_places_that_do_not_do(tmp_path: Path, kind: str) -> None:
    """Whatever is there already, symbolic links too, and paths that cannot be: one error, nothing changed."""
    path = tmp_path / "a"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(path)
    names = {"no folder": f"{path}/b", "relative": "a", "null": f"{path}\0", "long": f"{path}{'x' * 300}"}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CannotRecord) as caught:
        create(names.get(kind, str(path)))
    assert caught.value.hint
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_writes_only_where_the_client_may(tmp_path: Path) -> None:
    """The file is the client's own, and a root daemon makes none where the client could not."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(0o711)
    client = Owner(12345, 23456)
    with pytest.raises(CannotRecord) as caught:
        create(str(tmp_path / "a"), client)
    assert caught.value.denied
    os.chown(tmp_path, client.uid, client.gid)
    output = Output(str(tmp_path / "a"), client)
    state = (tmp_path / "a").stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (12345, 23456, 0o600)
    output.discard()
    assert list(tmp_path.iterdir()) == []
    os.close(create(str(tmp_path / "b")))  # and is root again
    assert (tmp_path / "b").stat().st_uid == 0


def test_full_disk_ends_the_recording_only(tmp_path: Path) -> None:
    """The observation and its report go on, the report says what happened, and whole blocks stay readable."""
    room = 1500

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = os.write(descriptor, data[: min(room, 200)])
        room -= done
        return done

    path = tmp_path / "a"
    live = samples.record(path, 8, output=Output(str(path), write=write))
    assert live["recording"] == {"complete": False, "reason": "No space left on device"}
    assert live["target"]["duration_s"] == 8
    replayed = report(path)
    assert 1 <= replayed["target"]["duration_s"] < 8
    assert not replayed["recording"]["complete"]
    assert path.stat().st_size <= 1500


def test_stuck_disk_costs_bounded_memory(tmp_path: Path) -> None:
    """A disk that takes nothing ends the recording when the queue is full; nobody waits for it."""
    free = threading.Event()
    output = Output(str(tmp_path / "a"), write=after(free), max_queued=1000)
    for _ in range(10):
        output.put(bytes(300), 1, Flag.NONE)
    assert output.failure == "the disk is too slow"
    free.set()
    output.close(30)


def test_end_that_the_disk_does_not_take(tmp_path: Path) -> None:
    """Closing gives up after its time and says so."""
    free = threading.Event()
    output = Output(str(tmp_path / "a"), write=after(free))
    output.close(0.01)
    assert output.failure is not None
    assert "0.01 s" in output.failure
    free.set()
    output.close(30)


def test_value_that_cannot_be_written(tmp_path: Path) -> None:
    """A record that the format does not have ends the recording, not the daemon."""
    recorder = Recorder(Output(str(tmp_path / "a")), BEGIN)
    recorder.record(Fork(1, 1 << 70, 1, 2, "x"))
    assert recorder.over
    recorder.close()
    assert "Fork" in recorder.state()["reason"]


def test_nothing_is_recorded_after_the_end(tmp_path: Path) -> None:
    """Records that come after the last report change neither the file nor its size."""
    recorder = Recorder(Output(str(tmp_path / "a")), BEGIN)
    recorder.finish(samples.Snapshot(2000), samples.Loss(), samples.COST, 0)
    size = (tmp_path / "a").stat().st_size
    recorder.record(Fork(1, 5000, 1, 2, "x"))
    recorder.tick(lambda: pytest.fail("asked for totals"))
    recorder.close()
    assert (tmp_path / "a").stat().st_size == size
    assert recorder.state() == {"complete": True, "reason": None}


def test_storms_make_blocks_of_64_kib(tmp_path: Path) -> None:
    """Many records at once are written as they come, and memory stays at one block and the queue."""
    recorder = Recorder(Output(str(tmp_path / "a")), BEGIN)
    for number in range(20_000):
        recorder.record(Fork(1, 1000 + number, 1, number, "a child process"))
    recorder.finish(samples.Snapshot(1 << 20), samples.Loss(), samples.COST, 0)
    sizes = [header.plain for header in samples.headers((tmp_path / "a").read_bytes())]
    assert len(sizes) > 5
    assert all(64 * 1024 <= size < 65 * 1024 for size in sizes[:-1])


def test_checkpoints_are_rarer_where_they_cost_more(tmp_path: Path) -> None:
    """Totals that take 0.1 s to copy are copied every 5 s, so that they take 2 % of the time."""
    now = 0.0
    asked = []

    def totals() -> tuple[samples.Snapshot, samples.Loss, samples.Overhead]:
        nonlocal now
        asked.append(now)
        now += 0.1
        return samples.Snapshot(int(now * 1e9) + 2000), samples.Loss(), samples.COST

    recorder = Recorder(Output(str(tmp_path / "a")), BEGIN, clock=lambda: now)
    while now < 20:
        recorder.tick(totals)
        now += 1
    recorder.close()
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps
    assert all(5 <= gap < 7 for gap in gaps)


def test_a_slice_costs_few_bytes(tmp_path: Path) -> None:
    """Waits as irregular as real ones take under 25 bytes each: 200 a second are 18 MB an hour."""
    noise = random.Random(7)
    recorder = Recorder(Output(str(tmp_path / "a")), BEGIN)
    at, count = 10**13, 10_000
    for _ in range(count):
        at += noise.randrange(20_000_000)
        tid, lock = 4711 + noise.randrange(20), 0x7F00_0000_0000 + 64 * noise.randrange(50)
        peer = NO_PEER._replace(remote_port=noise.randrange(20))
        times = (at, noise.randrange(50_000_000), noise.randrange(100_000))
        recorder.record(Slice(1, 4711, tid, *times, lock, 0, 4711, tid + 1, 3, 45, 3, peer))
    recorder.finish(samples.Snapshot(at), samples.Loss(), samples.COST, 0)
    assert (tmp_path / "a").stat().st_size / count < 25


def test_no_thread_to_write_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit has no room for another: one error, and neither a file nor a descriptor stays."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(CannotRecord, match="can't start new thread"):
        Output(str(tmp_path / "a"))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_holds_up_neither_an_end_nor_the_daemons(tmp_path: Path) -> None:
    """Of many that are closed, none is waited for; at the end of the daemon all together, once."""
    slow = threading.Event()
    recorders = [Recorder(Output(str(tmp_path / str(n)), write=after(slow)), BEGIN) for n in range(8)]
    began = time.monotonic()
    for recorder in recorders:
        recorder.close(wait_s=0.0)
    assert time.monotonic() - began < 0.5
    wait_for_all(0.5)
    assert 0.4 < time.monotonic() - began < 1.5
    slow.set()
    wait_for_all(10.0)
    whole = Recorder(Output(str(tmp_path / "whole")), BEGIN)
    whole.close()
    size = (tmp_path / "whole").stat().st_size
    assert {(tmp_path / str(n)).stat().st_size for n in range(8)} == {size}


def test_what_is_discarded_is_not_waited_for(tmp_path: Path) -> None:
    """Its name goes at once."""
    slow = threading.Event()
    output = Output(str(tmp_path / "a"), write=after(slow))
    began = time.monotonic()
    output.discard()
    assert time.monotonic() - began < 0.5
    assert not list(tmp_path.iterdir())
    slow.set()
    wait_for_all(10.0)
    assert output.closed
