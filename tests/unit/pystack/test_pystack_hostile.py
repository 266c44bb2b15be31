"""Memory that lies: whatever a target holds, the answer is a stack or a StackError, in bounded work."""

from __future__ import annotations

import os
import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import Frame, StackError
from whyidle_daemon.pystack.awaiting import Awaits, Point
from whyidle_daemon.pystack.heap import Heap
from whyidle_daemon.pystack.instances import Instances
from whyidle_daemon.pystack.layout import Layout
from whyidle_daemon.pystack.memory import Fields, Metered
from whyidle_daemon.pystack.objects import Objects, Types
from whyidle_daemon.pystack.runtime import Interpreter, discover, version_from_names
from whyidle_daemon.pystack.tables import OBJECTS, TABLES
from whyidle_daemon.pystack.tasks import TaskReader
from whyidle_daemon.pystack.thread_names import ThreadNames
from whyidle_daemon.pystack.threads import Threads, ThreadState
from whyidle_daemon.pystack.walk import Walker

BASE = 0x10000
NAMES = "PyDict_Type PySet_Type PyModule_Type _PyWeakref_RefType PyCoro_Type PyLong_Type PyGen_Type"
LOOPS, LIBRARY = "/lib/python3.11/asyncio/selector_events.py", "/lib/python3.11/site-packages/x/y.py"
OWN = "/app/agent.py"
TYPES = Types(code=BASE, str=BASE + 8, bytes=BASE + 16, frame=BASE + 24)
VERSIONS = st.sampled_from(sorted(TABLES))


class Hostile:
    """A small memory whose pointers mostly stay inside it, and a count of reads."""

    def __init__(self, seed: int, size: int = 1 << 13) -> None:
        dice = random.Random(seed)
        small = [0, 1, 2, 8, 0x54, 0xFFFFFFFFFFFFFFFF, 1 << 40, *TYPES, *TYPES, *TYPES]
        words = [
            dice.choice(small) if dice.random() < 0.4 else BASE + dice.randrange(size // 8) * 8
            for _ in range(size // 8)
        ]
        self.data = struct.pack(f"<{len(words)}Q", *words)
        self.reads = self.bytes = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        self.bytes += size
        found = self.data[max(address - BASE, 0) : max(address - BASE, 0) + size]
        if address < BASE or len(found) < size:
            raise StackError("unreadable")
        return found


def python(version: tuple[int, int]) -> Interpreter:
    return Interpreter(version, BASE + 64, Layout(**TABLES[version]), TYPES, {})


@settings(max_examples=300)
@given(VERSIONS, st.integers(0, 1 << 32), st.integers(0, 1000))
def test_random_memory_as_a_stack(version: tuple[int, int], seed: int, start: int) -> None:
    """Frames, code and strings of random words end in an error or in a bounded stack."""
    memory = Hostile(seed)
    target = python(version)
    objects = Objects(memory.read, version, target.layout, TYPES)
    try:
        frames, _ = Walker(memory.read, target, objects).walk(BASE + start * 8, 128)
    except StackError:
        frames = []
    assert len(frames) <= 128
    assert memory.reads < 5000
    for frame in frames:
        (frame.function + frame.file).encode()


@settings(max_examples=200)
@given(VERSIONS, st.integers(0, 1 << 32))
def test_random_memory_as_threads(version: tuple[int, int], seed: int) -> None:
    """Lists of interpreters and threads made of random words end, in circles or not."""
    memory = Hostile(seed)
    threads = Threads(memory.read, python(version))
    for tid in (1, 2, BASE):
        try:
            found = threads.find(tid, main=True)
        except StackError:
            continue
        assert all(state.address & 7 == 0 for state in found)
    assert memory.reads < 100_000


@given(VERSIONS, st.integers(0, 1 << 32), st.integers(0, 1 << 64))
def test_any_pointer_as_an_object(version: tuple[int, int], seed: int, address: int) -> None:
    """Any 64-bit number as a pointer gives an object of the promised type or an error."""
    memory = Hostile(seed)
    objects = Objects(memory.read, version, Layout(**TABLES[version]), TYPES)
    for pointer in (address, BASE + address % 0x1000 // 8 * 8):
        for ask in (lambda p: objects.text(p, 100), objects.data, objects.code):
            with suppress(StackError):
                ask(pointer)


def of_objects(version: tuple[int, int]) -> Layout:
    """A layout that fits a version's table of objects."""
    at = OBJECTS[version]
    known = Layout(**(TABLES.get(version) or TABLES[3, 12]))
    return known._replace(interp_size=at["interp_size"], thread_size=at["thread_size"])


def test_another_build_is_unsupported() -> None:
    """Where 3.14's threads are of another size than by its headers, their lists may be elsewhere."""
    memory, version = Hostile(1), (3, 14)
    layout = of_objects(version)._replace(thread_size=1)
    kinds = dict(zip(NAMES.split(), (*TYPES, *TYPES), strict=False))
    target = Interpreter(version, BASE + 64, layout, TYPES, kinds)
    objects, threads = Objects(memory.read, version, layout, TYPES), Threads(memory.read, target)
    tasks = TaskReader(os.getpid(), memory.read, target, objects, threads)
    with pytest.raises(StackError, match="tasks of this build of Python") as caught:
        list(tasks._lists.listed(BASE, []))
    assert caught.value.reason == "unsupported"


@settings(max_examples=200)
@given(st.sampled_from(sorted(OBJECTS)), st.integers(0, 1 << 32))
def test_random_memory_as_tasks(version: tuple[int, int], seed: int) -> None:
    """Dictionaries, sets and coroutines of random words end in an error or in bounded work."""
    memory = Hostile(seed)
    layout = of_objects(version)
    kinds = dict(zip(NAMES.split(), (*TYPES, *TYPES), strict=False))
    target = Interpreter(version, BASE + 64, layout, TYPES, kinds)
    heap = Heap(memory.read, target)
    tasks = TaskReader(
        os.getpid(),
        memory.read,
        target,
        Objects(memory.read, version, layout, TYPES),
        Threads(memory.read, target),
    )
    names = ThreadNames(memory.read, target, tasks._objects)
    dice = random.Random(seed)
    tasks._meter.allow(1 << 30)
    for ask in (
        lambda p: heap.get(p, "asyncio.tasks"),
        lambda p: list(heap.members(p)),
        lambda p: heap.attribute(p, "data", "PySet_Type"),
        lambda p: tasks._coroutines.points(p, []),
        lambda p: list(tasks._lists.listed(p, [ThreadState(p, p, 0, 0)])),
        lambda p: heap.numbered(p, 5, 1 << 16),
        lambda p: names.name(ThreadState(p, p, 5, 5)),
        tasks._task,
        tasks._name,
    ):
        for _ in range(20):
            with suppress(StackError):
                ask(BASE + dice.randrange(1 << 10) * 8)
    with suppress(StackError):
        tasks.read()
    assert memory.reads < 500_000


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(OBJECTS)), st.integers(0, 1 << 32), st.sampled_from([LOOPS, LIBRARY, OWN]))
def test_random_memory_as_what_a_task_waits_for(version: tuple[int, int], seed: int, file: str) -> None:
    """Classes, attributes and handles of random words name no descriptor that was not given."""
    memory = Hostile(seed)
    layout = Layout(**(TABLES.get(version) or TABLES[3, 12]))
    kinds = dict(zip(NAMES.split(), (*TYPES, *TYPES), strict=False))
    target = Interpreter(version, BASE + 64, layout, TYPES, kinds)
    meter = Metered(memory.read)
    heap = Heap(meter, target)
    awaits = Awaits(meter, heap, Instances(meter, heap, Objects(meter, version, layout, TYPES)))
    dice = random.Random(seed)
    registered = set(range(0, 300, 2))
    for _ in range(10):
        points = [
            Point(Frame("f", file, 1), BASE + dice.randrange(1 << 10) * 8, dice.randrange(1 << 16))
            for _ in range(dice.randrange(6))
        ]
        meter.allow(1000)
        with suppress(StackError):
            found = awaits.of(points, BASE + dice.randrange(1 << 10) * 8, registered)
            assert found.descriptor is None or found.descriptor in registered
            assert len(found.joins) <= 100
        with suppress(StackError):
            awaits.selector(BASE + dice.randrange(1 << 10) * 8)
    assert memory.reads <= 10_000


def test_memory_without_an_end() -> None:
    """A reading of tasks ends after so many reads, whatever is found."""
    meter = Metered(lambda address, size: bytes(size))
    meter.allow(2)
    assert meter(1, 1) == meter(2, 1) == b"\0"
    with pytest.raises(StackError, match="too many reads"):
        meter(3, 1)


def test_frames_in_a_circle() -> None:
    """A frame that is its own caller is torn, at once."""
    version = (3, 8)
    at = Layout(**TABLES[version])
    words = bytearray(Hostile(1).data)
    frame = BASE + 0x800
    for offset, value in ((at.object_type, TYPES.frame), (at.frame_previous, frame), (at.frame_code, 0)):
        struct.pack_into("<Q", words, 0x800 + offset, value)
    memory = Hostile(1)
    memory.data = bytes(words)
    target = python(version)
    with pytest.raises(StackError, match="torn"):
        Walker(memory.read, target, Objects(memory.read, version, at, TYPES)).walk(frame, 128)


def test_the_cache_of_code_is_bounded() -> None:
    """However many functions a target has, the cache keeps no more than its share."""
    version = (3, 11)
    at = Layout(**TABLES[version])
    text, code, count = BASE + 0x100, BASE + 0x1000, 50
    words = bytearray(0x10000)
    struct.pack_into("<QqqI", words, 0x100 + at.object_type, TYPES.str, 90, 0, (1 | 1 << 3 | 1 << 4) << 2)
    for number in range(count):
        place = 0x1000 + number * 0x200
        struct.pack_into("<Q", words, place + at.object_type, TYPES.code)
        for field in (at.code_filename, at.code_name, at.code_qualname):
            struct.pack_into("<Q", words, place + field, text)
    memory = Hostile(1)
    memory.data = bytes(words)
    by_number = Objects(memory.read, version, at, TYPES, entries=10)
    by_length = Objects(memory.read, version, at, TYPES, characters=180 * 7)
    for objects, kept in ((by_number, 10), (by_length, 7)):
        for number in range(count):
            objects.code(code + number * 0x200)
        before = memory.reads
        for number in range(count - kept, count):
            objects.code(code + number * 0x200)
        assert memory.reads - before == kept  # from the cache: one read each, to see that they are the same
        objects.code(code)
        assert memory.reads - before > kept + 1


def test_a_new_function_at_an_old_address() -> None:
    """A code object that was freed and replaced is not taken from the cache."""
    version = (3, 11)
    at = Layout(**TABLES[version])
    words = bytearray(0x1000)
    for place, word in ((0x100, b"old"), (0x200, b"new")):
        struct.pack_into("<QqqI", words, place + at.object_type, TYPES.str, 3, 0, (1 | 1 << 3 | 1 << 4) << 2)
        words[place + at.str_ascii : place + at.str_ascii + 3] = word
    struct.pack_into("<Q", words, 0x800 + at.object_type, TYPES.code)
    memory = Hostile(1)
    objects = Objects(memory.read, version, at, TYPES)
    for word, text in (("old", 0x100), ("new", 0x200)):
        for field in (at.code_filename, at.code_name, at.code_qualname):
            struct.pack_into("<Q", words, 0x800 + field, BASE + text)
        memory.data = bytes(words)
        assert objects.code(BASE + 0x800).function == word


@pytest.mark.parametrize(("version", "number_at"), [((3, 11), None), ((3, 12), 92)])
def test_new_code_with_every_pointer_of_the_old(version: tuple[int, int], number_at: int | None) -> None:
    """Told by its number since 3.12, and before by its file's name where that is no file's."""
    at = Layout(**TABLES[version])
    words = bytearray(0x1000)
    struct.pack_into("<QqqI", words, 0x100 + at.object_type, TYPES.str, 3, 0, (1 | 1 << 3 | 1 << 4) << 2)
    struct.pack_into("<Q", words, 0x200 + at.object_type, TYPES.bytes)
    struct.pack_into("<Q", words, 0x800 + at.object_type, TYPES.code)
    for field in (at.code_filename, at.code_name, at.code_qualname):
        struct.pack_into("<Q", words, 0x800 + field, BASE + 0x100)
    struct.pack_into("<Q", words, 0x800 + at.code_linetable, BASE + 0x200)
    memory = Hostile(1)
    objects = Objects(memory.read, version, at, TYPES)
    for number, word in enumerate((b"<1>", b"<2>")):
        words[0x100 + at.str_ascii : 0x100 + at.str_ascii + 3] = word
        if number_at is not None:
            words[0x800 + number_at] = number
        memory.data = bytes(words)
        assert objects.code(BASE + 0x800).file == word.decode()
        assert objects.code(BASE + 0x800) is objects.code(BASE + 0x800)


@settings(max_examples=50)
@given(st.binary(max_size=4096))
def test_any_bytes_as_an_executable(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """A mapped file that is no ELF file, or a damaged one, holds no interpreter."""
    root = tmp_path_factory.mktemp("proc")
    (root / "1").mkdir()
    line = f"{BASE:x}-{BASE + 4096:x} r-xp 00000000 08:01 7 /usr/bin/python3.11\n"
    (root / "1" / "maps").write_text(line)

    def read(address: int, size: int) -> bytes:
        found = (b"\x7fELF\x02\x01".ljust(16, b"\0") + data).ljust(4096, b"\0")[address - BASE :][:size]
        if address < BASE or len(found) < size:
            raise StackError("unreadable")
        return found

    with suppress(StackError):
        assert discover(1, read, Proc(root)) is None


@pytest.mark.parametrize(
    ("paths", "version"),
    [
        (["/usr/lib/x86_64-linux-gnu/libpython3.9.so.1.0"], (3, 9)),
        (["/usr/bin/python3.10 (deleted)"], (3, 10)),
        (["/usr/bin/uwsgi", "/usr/lib/python3.8/lib-dynload/_ssl.cpython-38-x86_64-linux-gnu.so"], (3, 8)),
        (["/opt/libpython3.8d.so.1.0"], (3, 8)),
        (["/usr/bin/python3", "/usr/lib/libc.so.6"], None),
        (["/home/python3.x/a.so"], None),
        ([], None),
    ],
)
def test_version_from_names(paths: list[str], version: tuple[int, int] | None) -> None:
    """Before 3.11 the version is in the names of the mapped files."""
    assert version_from_names(paths) == version


def test_fields_in_any_order() -> None:
    """Fields come back in the order asked for, whatever their order in memory."""
    fields = Fields((8, "Q"), (0, "I"), (4, "B"))
    assert fields(struct.pack("<xIBxxxQ", 7, 5, 9), 1) == (9, 7, 5)
    assert fields.size == 16
