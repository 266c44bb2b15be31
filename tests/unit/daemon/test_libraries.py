"""Finding the libraries that get probes in what a process maps, while its linker still moves them about."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from whyidle_daemon.libraries import MAX_FILES_OF_ONE, EngineLibraries
from whyidle_daemon.library_users import SHARE, TURN_S, LibraryUsers
from whyidle_daemon.proc import Mapping, Proc


class Linker:
    """/proc of a process whose linker cuts a mapping up between the look at it and the opening of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.moved = True

    def mappings(self, pid: int) -> list[Mapping]:
        status = self._file.stat()
        return [Mapping(0x1000, 0x9000, True, 0, (8, 1), status.st_ino, str(self._file))]

    def path(self, pid: int, *parts: str) -> Path:
        return self._file.with_name("gone") if self.moved else self._file


def test_a_mapping_that_moved_is_looked_at_again(tmp_path: Path) -> None:
    """Neither found nor given up: a model whose library was mapped at that instant would never be seen."""
    library = tmp_path / "libllama.so"
    library.write_bytes(Path(sys.executable).resolve().read_bytes())  # an ELF file without those functions
    proc = Linker(library)
    libraries = EngineLibraries(lambda kind, path, offsets: (), cast("Any", proc))
    assert not libraries.scan(1)
    assert not libraries.attached
    proc.moved = False
    assert libraries.scan(1)
    assert [entry.path for entry in libraries.attached] == [str(library)]
    libraries.close()


class Host:
    """/proc of processes that map libraries; each attached function is a descriptor of its own."""

    def __init__(self) -> None:
        self.maps: dict[int, list[Path]] = {}
        self.attached: list[int] = []
        self.fails = 0
        self.libraries = EngineLibraries(self.attach, cast("Any", self))

    def mappings(self, pid: int) -> list[Mapping]:
        return [
            Mapping(n << 12, (n + 1) << 12, True, 0, (8, 1), file.stat().st_ino, str(file))
            for n, file in enumerate(self.maps.get(pid, ()))
        ]

    def path(self, pid: int, folder: str, name: str) -> Path:
        if self.fails:
            raise OSError(self.fails, "no")
        return self.maps[pid][int(name.partition("-")[0], 16) >> 12]

    def attach(self, kind: str, path: str, offsets: Sequence[int]) -> tuple[int, ...]:
        self.attached += [os.open("/dev/null", os.O_RDONLY) for _ in offsets]
        return tuple(self.attached[-len(offsets) :])

    def open(self) -> list[int]:
        """Of the attached, those that are still there, once nobody detaches any more."""
        for thread in threading.enumerate():
            if thread.name == "detach":
                thread.join()
        return [each for each in self.attached if Path(f"/proc/self/fd/{each}").exists()]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.libraries.close()
    made.open()


def libc(folder: Path, n: int = 0) -> Path:
    """A library with a function that gets probes."""
    known = next(path for path in _mapped() if Path(path).name.startswith(("libc.so", "ld-musl-")))
    path = folder / f"{Path(known).name}.{n}"
    path.write_bytes(Path(known).read_bytes())
    return path


def _mapped() -> set[str]:
    return {mapping.path for mapping in Proc().mappings(os.getpid())}


def test_probes_go_with_the_last_process_that_maps_the_library(host: Host, tmp_path: Path) -> None:
    """Also those of a process that was forked, which nobody told of its libraries."""
    host.maps = {1: [libc(tmp_path)], 3: []}
    host.libraries.scan(1)
    assert host.open()
    host.libraries.prune(lambda: [1])
    host.maps[2] = host.maps[1]
    host.libraries.forget(1)
    host.libraries.prune(lambda: [2, 3])
    assert host.open()
    host.libraries.forget(2)
    del host.maps[2]
    host.libraries.prune(lambda: [3])
    while host.libraries.pruning:
        host.libraries.prune(lambda: [3])
    assert (host.open(), host.libraries.attached) == ([], [])
    host.libraries.scan(1)
    assert host.open()


def test_a_process_cannot_have_any_number_of_libraries(host: Host, tmp_path: Path) -> None:
    """Each takes descriptors of the daemon, and some milliseconds."""
    host.maps = {pid: [libc(tmp_path, 100 * pid + n) for n in range(20)] for pid in (1, 2)}
    host.libraries.scan(1)
    host.libraries.scan(1)
    assert len(host.libraries.attached) == MAX_FILES_OF_ONE
    host.libraries.scan(2)
    assert len(host.libraries.attached) == 2 * MAX_FILES_OF_ONE


@pytest.mark.parametrize(("error", "again"), [(errno.EMFILE, True), (errno.EACCES, False)])
def test_what_fails_for_a_reason_of_ours_is_tried_again(
    host: Host, tmp_path: Path, error: int, again: bool
) -> None:
    host.maps = {1: [libc(tmp_path)]}
    host.fails = error
    host.libraries.scan(1)
    host.fails = 0
    host.libraries.scan(1)
    assert bool(host.libraries.attached) == again


KEY = ((8, 1), 77)


class Slow:
    """Processes whose maps take a while to read; ``time`` is that of all clocks."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s, self.time = takes_s, 0.0
        self.read: list[int] = []
        self.maps: set[int] = set()
        self.users = LibraryUsers(cast("Any", self), lambda: self.time, lambda: self.time)

    def mappings(self, pid: int) -> Iterator[Mapping]:
        self.read.append(pid)
        self.time += self.takes_s
        if pid in self.maps:
            yield Mapping(0, 4096, True, 0, *KEY, "/libllama.so")


def test_maps_that_take_long_are_read_in_many_turns() -> None:
    """Four hundred of 50 ms stopped all else for a minute: now one at a time, a twentieth of the time."""
    host = Slow(0.05)
    pids = list(range(400))
    waited_s = 0.0
    before = 0
    while not (found := host.users.unused([KEY], lambda: pids)):
        assert host.users.seeking
        assert len(host.read) - before <= 1
        before = len(host.read)
        host.time += 0.1  # the next tick
        waited_s += 0.1
    assert set(found) == {KEY}
    assert sorted(host.read) == pids
    assert waited_s > 400 * 0.05 / SHARE * 0.9
    assert not host.users.seeking


def test_reading_of_maps_ends_with_the_first_that_has_the_file() -> None:
    """Nothing is looked for any more then; of short maps many are read in a turn, and no more than that."""
    host = Slow(TURN_S / 10)
    host.maps = {90}
    pids = list(range(100))
    assert not host.users.unused([KEY], lambda: pids)
    assert host.read == list(range(99, 89, -1))
    assert not host.users.seeking
    host.time += 60
    assert not host.users.unused([KEY], lambda: pids)
    assert len(host.read) == 10
    host.users.forget(90)
    del pids[90]
    assert not host.users.unused([KEY], lambda: pids)
    assert 20 <= len(host.read) <= 21


def test_of_what_is_known_no_maps_are_read() -> None:
    """A child maps what its parent did, and lives on without it; its own program maps other things."""
    host = Slow(1.0)
    host.users.add(1, KEY)
    host.users.forked(1, 2)
    host.users.forked(2, 3)
    host.users.forget(1)
    assert not host.users.unused([KEY], lambda: [2, 3])
    host.users.forget(2)
    assert not host.users.unused([KEY], lambda: [3])
    assert not host.read
    host.users.forget(3)
    assert set(host.users.unused([KEY], list)) == {KEY}
    assert not host.read


def test_who_comes_while_maps_are_read_is_looked_at_too() -> None:
    """And who was looked at and ended is another of the same number."""
    host = Slow(0.05)
    pids = [1, 2]
    assert not host.users.unused([KEY], lambda: pids)
    host.users.forget(2)
    host.maps = {2, 3}
    pids.append(3)
    for _ in range(5):
        host.time += 10
        assert not host.users.unused([KEY], lambda: pids)
    assert not host.users.seeking


def test_probes_go_although_no_thread_can_be_started(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are taken off by the daemon's own, which takes a moment."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    host.maps = {1: [libc(tmp_path)]}
    host.libraries.scan(1)
    assert host.open()
    monkeypatch.setattr(threading.Thread, "start", start)
    host.libraries.forget(1)
    host.libraries.prune(list)
    assert not host.open()
