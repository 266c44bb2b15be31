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
    host.libraries.prune([1])
    host.maps[2] = host.maps[1]
    host.libraries.forget(1)
    host.libraries.prune([2, 3])
    assert host.open()
    host.libraries.forget(2)
    del host.maps[2]
    host.libraries.prune([3])
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
