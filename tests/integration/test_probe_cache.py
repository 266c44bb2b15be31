"""Compiled probes kept for the next start: as good as compiled ones, and never anybody else's."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness import Probe, Program, Runner
from harness_cli import BIN
from whyidle_daemon.kernel import Kernel
from whyidle_probes.events import Event, Wait
from whyidle_probes.loader import CHILD, PROGRAMS, ProbeConfig, load_probes

pytestmark = pytest.mark.bpf
KEY, OTHER = "0" * 64, 61001


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that one start has filled."""
    directory = tmp_path_factory.mktemp("cache")
    directory.chmod(0o700)
    probes = load_probes(ProbeConfig(cache=directory))
    probes.close()
    assert probes.cache == "filled"
    return directory


@pytest.fixture
def again(kept: Path) -> Iterator[tuple[Kernel, list[Event]]]:
    seen: list[Event] = []
    probes = load_probes(ProbeConfig(cache=kept))
    assert probes.cache == "used"
    assert probes.missing == ()
    kernel = Kernel(probes, seen.append)
    yield kernel, seen
    kernel.close()


def module(name: str) -> ModuleType:
    """A module of the loader child, which is no package."""
    spec = importlib.util.spec_from_file_location(f"loader_child_{name}", CHILD / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


CACHE, BUNDLE = module("cache"), module("bundle")


def test_what_was_kept_observes(again: tuple[Kernel, list[Event]], programs: list[Program]) -> None:
    """Every program is there, and a thread's waits are told apart by tables that were filled anew."""
    kernel, seen = again
    probe = Probe(kernel, seen, 1)
    code = "import os, time\nr, w = os.pipe()\ntime.sleep(0.1)\n" + (
        "if os.fork() == 0:\n time.sleep(0.2)\n os._exit(0)\nos.wait()\n"
    )
    program = Runner(probe, programs)(code)
    thread = probe.exit_of(program.pid)
    for wait, at_least_s in ((Wait.SLEEP, 0.1), (Wait.CHILD, 0.15)):
        assert thread.ns[wait] > at_least_s * 1e9, wait
    assert len([name for name in kernel._probes.descriptors if name.startswith("program:")]) == len(PROGRAMS)


def test_other_sizes_are_other_programs(kept: Path) -> None:
    """What a program was compiled for is part of the name under which it is kept."""
    before = set(kept.iterdir())
    probes = load_probes(ProbeConfig(cache=kept, max_threads=64))
    probes.close()
    assert probes.cache == "filled"
    assert set(kept.iterdir()) > before


def test_a_damaged_file_is_compiled_again(kept: Path, tmp_path: Path) -> None:
    """A bit that fell over on the disk never reaches the kernel."""
    (tmp_path / "cache").mkdir(mode=0o700)
    for path in kept.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        copy = tmp_path / "cache" / path.name
        copy.write_bytes(data)
        copy.chmod(0o600)
    probes = load_probes(ProbeConfig(cache=tmp_path / "cache"))
    probes.close()
    assert probes.cache == "filled again: its digest is another"


def test_a_directory_of_somebody_else_is_not_used(kept: Path) -> None:
    """The probes are loaded all the same, and nothing is read or written there."""
    os.chown(kept, OTHER, -1)
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    try:
        probes = load_probes(ProbeConfig(cache=kept))
    finally:
        os.chown(kept, 0, -1)
    probes.close()
    assert probes.cache.startswith("not used: ")
    assert "does not belong to root alone" in probes.cache
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before


def writable_by_all(folder: Path, file: Path) -> None:
    folder.chmod(0o777)


def writable_by_the_group(folder: Path, file: Path) -> None:
    folder.chmod(0o770)


def in_anothers_directory(folder: Path, file: Path) -> None:
    os.chown(folder.parent, OTHER, -1)


def anothers_file(folder: Path, file: Path) -> None:
    os.chown(file, OTHER, -1)


def writable_file(folder: Path, file: Path) -> None:
    file.chmod(0o622)


def file_with_two_names(folder: Path, file: Path) -> None:
    os.link(file, folder.parent / "other")


def link_to_a_file(folder: Path, file: Path) -> None:
    file.rename(folder.parent / "real")
    file.symlink_to(folder.parent / "real")


def link_to_a_directory(folder: Path, file: Path) -> None:
    folder.rename(folder.parent / "real")
    folder.symlink_to("real")


def fifo(folder: Path, file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def huge(folder: Path, file: Path) -> None:
    os.truncate(file, 1 << 30)


@pytest.mark.parametrize(
    "spoil",
    [writable_by_all, writable_by_the_group, in_anothers_directory, anothers_file, writable_file,
     file_with_two_names, link_to_a_file, link_to_a_directory, fifo, huge],
)  # fmt: skip
def test_what_somebody_else_could_have_written(spoil: Callable[[Path, Path], None], tmp_path: Path) -> None:
    """Nothing is taken from a place that anybody but root could change, and it is said why."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    CACHE.write(str(folder), KEY, b"code")
    assert CACHE.read(str(folder), KEY) == b"code"
    spoil(folder, folder / f"{KEY}.probes")
    with pytest.raises(CACHE.UnsafeError):
        CACHE.read(str(folder), KEY)


@pytest.mark.parametrize("path", ["", "relative", "/tmp/../etc"])
def test_paths_that_lead_elsewhere(path: str) -> None:
    """Only an absolute path without detours."""
    with pytest.raises(CACHE.UnsafeError):
        CACHE.read(path, KEY)


def test_four_are_kept(tmp_path: Path) -> None:
    """A host that sees many kernels does not fill its disk: the latest used stay. Nothing else is touched."""
    tmp_path.chmod(0o700)
    keys = [f"{number:064x}" for number in range(7)]
    left, written = f".{keys[0]}.1", f".{keys[0]}.2"
    for name in (left, written, ".bashrc", "of another.probes"):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / left, (0, 0))  # its writer was killed
    for number, key in enumerate(keys):
        CACHE.write(str(tmp_path), key, b"code")
        os.utime(tmp_path / f"{key}.probes", (number, number))
        if number:
            assert CACHE.read(str(tmp_path), keys[0]) == b"code"
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {written, ".bashrc", "of another.probes", *(f"{keys[n]}.probes" for n in (0, 4, 5, 6))}


def test_a_directory_is_made_when_there_is_something_to_keep(tmp_path: Path) -> None:
    """For root alone, in one that is; to look for something makes nothing."""
    tmp_path.chmod(0o700)
    folder = tmp_path / "cache"
    assert CACHE.read(str(folder), KEY) is None
    assert not folder.exists()
    CACHE.write(str(folder), KEY, b"code")
    assert CACHE.read(str(folder), KEY) == b"code"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(CACHE.UnsafeError):
        CACHE.write(str(tmp_path / "a" / "b"), KEY, b"code")
    os.chown(tmp_path, OTHER, -1)
    try:
        with pytest.raises(CACHE.UnsafeError):
            CACHE.write(str(tmp_path / "other"), KEY, b"code")
    finally:
        os.chown(tmp_path, 0, -1)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_hostile_bundles() -> None:
    """Even with the right digest: content that is none is one error, and nothing else."""
    good = BUNDLE.Bundle((BUNDLE.Map("m", 1, 4, 4, 1, 0),), {"f": bytes((0x18, 0x11, 0, 0)) + bytes(12)})
    assert BUNDLE.load(good.dump()) == good
    bad = [
        good._replace(programs={"f": bytes((0x18, 0x11, 0, 0, 9, 0, 0, 0)) + bytes(8)}),  # no such map
        good._replace(programs={"f": bytes(7)}),
        good._replace(programs={}),
        good._replace(maps=()),
        good._replace(maps=(("m", 1, 4),)),
    ]
    for bundle in bad:
        with pytest.raises(BUNDLE.BundleError):
            BUNDLE.load(bundle.dump())
    for data in (b"", bytes(32), good.dump()[:-1], good.dump() + b" "):
        with pytest.raises(BUNDLE.BundleError):
            BUNDLE.load(data)


def test_a_command_of_its_own_is_faster_the_second_time(tmp_path: Path) -> None:
    """``whyidle run`` keeps what was compiled for it as well."""
    environment = {**os.environ, "WHYIDLE_CACHE": str(tmp_path)}
    command = [BIN / "whyidle", "run", "--", "true"]
    files = []
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, capture_output=True)
        (file,) = (tmp_path / "probes").iterdir()
        files.append(file.stat().st_ino)
    assert files[0] == files[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
