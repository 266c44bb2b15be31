"""Readers of processes that are files: what the target says of itself, and what is kept of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unit.pystack.fakes import PID, FakeProcess, FakePython, described, library
from unit.pystack.test_pystack_hostile import BASE, NAMES, TYPES, Hostile
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import StackError, StackReader, lines, reader
from whyidle_daemon.pystack.layout import _names, layout
from whyidle_daemon.pystack.memory import Memory
from whyidle_daemon.pystack.runtime import Interpreter, discover

NEWER = [(3, 13), (3, 14), (3, 15)]
OFFSETS = st.integers(0, 200) | st.sampled_from(
    [4081, 4090, 4095, 4096, (1 << 20) - 1, 1 << 20, (1 << 64) - 1]
)
NEEDED = ("_PyRuntime", "PyCode_Type", "PyUnicode_Type", "PyBytes_Type", "PyFrame_Type")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(NEWER),
    st.dictionaries(st.sampled_from(_names((3, 13))), OFFSETS, max_size=4),
    st.integers(0, 99),
)
@example((3, 13), {"thread_state.next": 0}, 1)
@example((3, 13), {"unicode_object.state": 0}, 1)
@example((3, 13), {"interpreter_frame.previous": 4090}, 1)
@example((3, 13), {"dict_object.ma_keys": 8, "pyobject.ob_type": 60}, 1)
def test_a_runtime_that_lies_about_its_layout(
    tmp_path_factory: pytest.TempPathFactory, version: tuple[int, int], changed: dict[str, int], seed: int
) -> None:
    """Offsets that overlap or are out of reason give a StackError, and leave no file open."""
    process = FakeProcess(tmp_path_factory.mktemp("proc"))
    process.write(BASE, described(version, **changed) + Hostile(seed).data[1024:])
    process.thread(2, 2)
    kinds = dict(zip(NAMES.split(), (*TYPES, *TYPES), strict=False))

    def found(*_: object) -> Interpreter:
        return Interpreter(version, BASE, layout(version, described(version, **changed)), TYPES, kinds)

    before = open_files()
    with pytest.MonkeyPatch.context() as patch, suppress(StackError):
        patch.setattr(reader, "discover", found)
        with StackReader(PID, process.folder.parent) as stacks:
            for ask in (lambda: stacks.read(PID), stacks.tasks, stacks.threads, lambda: stacks.name(2)):
                with suppress(StackError):
                    ask()
    assert open_files() == before


def test_a_field_ends_inside_its_structure() -> None:
    """A frame that is larger than the window in which a walker reads is no frame."""
    with pytest.raises(StackError, match="out of reason: frame_previous"):
        layout((3, 13), described((3, 13), **{"interpreter_frame.previous": 4090}))


@pytest.mark.parametrize("address", [1 << 64, (1 << 64) - 1, 1 << 56])
def test_a_runtime_where_no_memory_can_be(tmp_path: Path, address: int) -> None:
    """A library may say that its runtime is anywhere: outside of user space it is refused."""
    process = FakeProcess(tmp_path)
    symbols = {**dict.fromkeys(NEEDED, 8), "_PyRuntime": (address - BASE) & (1 << 64) - 1}
    process.map(BASE, library(symbols), "/usr/lib/libpython3.9.so.1.0")
    with pytest.raises(StackError) as caught:
        discover(PID, Memory(PID, tmp_path).read, Proc(tmp_path))
    assert caught.value.reason == "unsupported"


def test_what_one_process_says_of_a_library_is_not_believed_of_another(tmp_path: Path) -> None:
    """Its copy of the symbols may have been edited, with the file's number and first page as they were."""
    good = {name: 8 * at for at, name in enumerate(NEEDED, 1)}
    edited = {**good, "_PyRuntime": 0x800}
    without = dict.fromkeys(NEEDED[1:], 8)
    for pid, symbols in ((PID, edited), (PID + 1, without), (PID + 2, good)):
        FakeProcess(tmp_path, pid).map(BASE, library(symbols), "/usr/lib/libpython3.9.so")
    with StackReader(PID, tmp_path) as stacks:
        assert stacks.python.runtime == BASE + 0x800
    with pytest.raises(StackError, match="not_python"):
        StackReader(PID + 1, tmp_path)
    with StackReader(PID + 2, tmp_path) as stacks:
        assert (stacks.python.version, stacks.python.runtime) == ((3, 9), BASE + 8)


def test_a_thread_with_the_number_of_one_that_ended(tmp_path: Path) -> None:
    """In a container its own number is another: it is not taken for the one that had the host's number."""
    process = FakePython(tmp_path, 50, 60)
    process.thread(PID, PID, 1)
    process.thread(5, 5, 50)
    with StackReader(PID, tmp_path) as stacks:
        assert stacks.read(5) == ((), True)
        process.states(51, 60)
        process.thread(5, 5, 51)
        assert stacks.read(5) == ((), True)
        assert stacks._threads.find(5, main=False)[0].native == 51
        process.states(70, 60, 51)  # which is another thread's now
        process.thread(5, 5, 52)
        with pytest.raises(StackError, match="no_thread"):
            stacks.read(5)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a target's memory."""
    found: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, address: int) -> bytes:
        found.append(size)
        return pread(file, size, address)

    monkeypatch.setattr(os, "pread", counted)
    return found


def test_tables_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    """A stack of 128 functions, each with a table as large as can be: what is searched at once is bounded."""
    process = FakePython(tmp_path, PID)
    process.stack([bytes([0x80 | 15 << 3]) * 20_000] * 128)
    searched: list[int] = []
    line = lines.line

    def counted(version: tuple[int, int], table: bytes, first: int, offset: int) -> int | None:
        searched.append(len(table))
        return line(version, table, first, offset)

    monkeypatch.setattr(lines, "line", counted)
    with StackReader(PID, tmp_path) as stacks:
        for _ in range(42):  # three tables each time, which are known then
            reads.clear()
            searched.clear()
            with pytest.raises(StackError, match="too many lines"):
                stacks.read(PID)
            assert sum(searched) <= 1 << 16
            assert len(reads) < 2000
            assert sum(reads) < 1 << 21
        assert len(stacks.read(PID).frames) == 128


def test_a_table_too_large(tmp_path: Path) -> None:
    """Of a function whose line table is larger than any of use, only its first line is told."""
    process = FakePython(tmp_path, PID)
    process.stack([bytes([0x80 | 11 << 3, 0, 0]) * count for count in (100, 1 << 16)], offset=2)
    with StackReader(PID, tmp_path) as stacks:
        assert [frame.line for frame in stacks.read(PID).frames] == [9, 7]


def test_threads_without_an_end(tmp_path: Path, reads: list[int]) -> None:
    """However many thread states a process shows, one reading looks at some."""
    process = FakePython(tmp_path, *range(1, 40_000))
    process.thread(50_000, 50_000)
    with StackReader(PID, tmp_path) as stacks:
        for ask in (lambda: stacks.read(50_000), stacks.threads):
            reads.clear()
            with pytest.raises(StackError, match="torn"):
                ask()
            assert len(reads) < 25_000
        reads.clear()
        assert stacks.name(50_000) == ""
        assert len(reads) < 25_000


def test_interpreters_without_an_end(tmp_path: Path, reads: list[int]) -> None:
    """Nor does a thread have a state in each of more interpreters than there can be."""
    process = FakePython(tmp_path, PID)
    process.interpreters(2000, PID)
    with StackReader(PID, tmp_path) as stacks, pytest.raises(StackError, match="torn"):
        stacks.read(PID)
