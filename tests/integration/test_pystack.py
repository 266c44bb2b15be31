"""Stacks of real, sleeping threads of every CPython that this host has, against what each says of itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import wait_until
from unit.pystack import pythons
from unit.pystack.targets import CHURN, NAMES, PREAMBLE, SUBINTERPRETER, TASKS, THREADS, WAITS
from whyidle_daemon.pystack import Frame, StackError, StackReader, own_frame


class Target:
    """A program of some interpreter that says one JSON value per line, then waits to be killed."""

    def __init__(self, python: list[str], code: str, folder: Path, arguments: tuple[str, ...] = ()) -> None:
        script = folder / "target.py"
        script.write_text(PREAMBLE + code)
        (folder / "executed.py").write_text("def inside():\n    lock.acquire()  # wait\n\n\ninside()")
        environment = os.environ | {"EXECUTED": str(folder / "executed.py")}
        self.process = subprocess.Popen(
            [*python, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.pid = self.process.pid

    def hear(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


Start = Callable[..., Target]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    if os.geteuid() != 0:
        pytest.skip("reading another process's memory needs root")
    running: list[Target] = []

    def start(name: str, code: str, *prefix: str, arguments: tuple[str, ...] = ()) -> Target:
        python = name if name == sys.executable else pythons.need(name)
        running.append(Target([*prefix, python], code, tmp_path, arguments))
        return running[-1]

    yield start
    for target in running:
        target.close()


def expected(said: list[list[Any]]) -> tuple[Frame, ...]:
    return tuple(Frame(*frame) for frame in said)


def functions(reader: StackReader, tid: int) -> list[str]:
    """Functions of a thread that may still be on its way to sleep: none while its stack moves."""
    try:
        return [frame.function for frame in reader.read(tid).frames]
    except StackError:
        return []


EVERY = pytest.mark.parametrize("name", [*pythons.VERSIONS, pythons.SYSTEM])


@EVERY
def test_every_frame_of_every_kind_of_wait(start: Start, name: str) -> None:
    """Functions, files and lines of nine sleeping threads are exactly what the interpreter itself says."""
    target = start(name, WAITS)
    said = target.hear()
    with StackReader(target.pid) as reader:
        assert reader.threads() == sorted([target.pid, *map(int, said)])
        for tid, frames in said.items():
            stack = reader.read(int(tid))
            assert stack.frames == expected(frames)[:128]
            assert stack.complete == (len(frames) <= 128)
            own = own_frame(stack.frames)
            assert own is not None
            assert stack.frames[own].file.endswith(("target.py", "executed.py"))


DEEP = """
def down(n):
    if n: down(n - 1)
    else: sys.stdin.readline()
say(1); down(100)
"""


@pytest.mark.parametrize("name", ["3.11", pythons.SYSTEM, "3.12", "3.13", "3.14", "3.15"])
def test_a_reading_takes_few_reads(start: Start, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are read by the page: where a thread's block of them begins, what is before may be no memory."""
    target = start(name, DEEP)
    target.hear()
    pread, sizes = os.pread, []

    def counted(file: int, size: int, at: int) -> bytes:
        sizes.append(size)
        return pread(file, size, at)

    with StackReader(target.pid) as reader:
        wait_until(lambda: functions(reader, target.pid)[:1] == ["down"], "the last call to wait")
        monkeypatch.setattr(os, "pread", counted)
        frames = reader.read(target.pid).frames
    assert len(frames) == 102
    assert len(sizes) <= 30  # a page has 30 of these frames


NAMED = """
import threading
def wait(): sys.stdin.readline()
one, other, bare = (threading.Thread(target=wait, daemon=True) for _ in range(3))
one.name, other.name = "search-worker", "müller " * 20
for each in (one, other): each.start()
import _thread
_thread.start_new_thread(wait, ())
while threading.active_count() < 3: pass
say([one.native_id, other.native_id]); wait()
"""


@pytest.mark.parametrize("name", ["3.10", "3.11", pythons.SYSTEM, "3.12", "3.13", "3.14", "3.15"])
def test_what_python_calls_a_thread(start: Start, name: str) -> None:
    """Its own name, cut; none for the first thread, for one that threading does not know, and before 3.11."""
    target = start(name, NAMED)
    one, other = target.hear()
    with StackReader(target.pid) as reader:
        wait_until(lambda: len(reader.threads()) == 4, "all threads to be there")
        names = {tid: reader.name(tid) for tid in reader.threads()}
    expected = {one: "search-worker", other: ("müller " * 20)[:64]} if name != "3.10" else {}
    assert {tid: name for tid, name in names.items() if name} == expected


@EVERY
def test_main_thread(start: Start, name: str) -> None:
    """The main thread is found by the process's own number, down to its first line."""
    target = start(name, "def main():\n    sys.stdin.readline()\nsay(1); main()")
    target.hear()

    with StackReader(target.pid) as reader:
        wait_until(lambda: functions(reader, target.pid) == ["main", "<module>"], "the main thread to wait")


@EVERY
def test_2000_reads_beside_busy_threads(start: Start, name: str) -> None:
    """Of 2000 stacks of a thread that sleeps while three others churn, each one is right."""
    target = start(name, CHURN)
    ((tid, frames),) = target.hear().items()
    with StackReader(target.pid) as reader:
        for _ in range(2000):
            assert reader.read(int(tid)).frames == expected(frames)


@pytest.mark.parametrize("name", ["3.8", "3.10", pythons.SYSTEM, "3.12", "3.13"])
def test_reads_of_running_threads(start: Start, name: str) -> None:
    """A thread that runs gives names of its own program or an error, and never anything else."""
    target = start(
        name, CHURN.replace("truth(sleeping)", "truth(sleeping) and {t.native_id: 0 for t in busy}")
    )
    tids = [int(tid) for tid in target.hear()]
    known = {"churn", "a", "b", "c", "level", "sleeper", "run", "_bootstrap", "_bootstrap_inner", "<module>"}
    known |= {"<listcomp>", "<genexpr>"}
    right, reasons = 0, set()
    with StackReader(target.pid) as reader:
        for number in range(1000):
            try:
                stack = reader.read(tids[number % 3])
            except StackError as error:
                reasons.add(error.reason)
                continue
            right += 1
            for frame in stack.frames:
                last = frame.function.rpartition(".")[2]
                assert last in known or (last[:1] == "f" and last[1:].isdecimal())
                assert frame.line is None or 0 <= frame.line < 2000
    assert right > 0
    assert reasons <= {"torn", "unreadable"}


@EVERY
def test_a_forked_child(start: Start, name: str) -> None:
    """A child's thread states may name its parent's threads; its main thread is found all the same."""
    target = start(
        name,
        """
def child():
    sys.stdin.readline()  # wait
pid = os.fork()
if not pid:
    child()
    os._exit(0)
say(pid)
os.waitpid(pid, 0)
""",
    )
    child = target.hear()

    def found() -> list[str]:
        try:
            with StackReader(child) as reader:
                return functions(reader, child)
        except StackError:
            return []

    try:
        wait_until(lambda: found() == ["child", "<module>"], "the child's stack")
    finally:
        target.go()


@pytest.mark.parametrize("name", ["3.8", pythons.SYSTEM, "3.13"])
def test_a_pid_namespace(start: Start, name: str) -> None:
    """In a container a thread has another number; the reader takes the host's."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) here")
    target = start(name, WAITS, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    said = target.hear()
    (pid,) = map(int, Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split())
    with StackReader(pid) as reader:
        tids = [tid for tid in reader.threads() if tid != pid]
        assert sorted(reader.read(tid).frames for tid in tids) == sorted(
            expected(f)[:128] for f in said.values()
        )
        assert not set(tids) & set(map(int, said))


@EVERY
def test_a_process_that_exits(start: Start, name: str) -> None:
    """Reads of a process that ends give an error that says so, and never a stack of somebody else."""
    target = start(name, "say(1); sys.stdin.readline()")
    target.hear()
    with StackReader(target.pid) as reader:
        wait_until(lambda: functions(reader, target.pid), "it to sleep")
        target.go()
        reasons = set()
        for _ in range(100_000):
            try:
                reader.read(target.pid)
            except StackError as error:
                reasons.add(error.reason)
                if error.reason == "gone":
                    break
        assert "gone" in reasons
        assert reasons <= {"gone", "torn", "unreadable", "no_thread"}


@pytest.mark.parametrize("name", [pythons.SYSTEM, "3.12"])
def test_a_process_that_replaces_its_image(start: Start, name: str) -> None:
    """After an exec the old reader says gone, and a new one reads the new program."""
    target = start(
        name,
        'code = "print(1, flush=True); import sys; sys.stdin.readline()"\n'
        'say(1); sys.stdin.readline(); os.execv(sys.executable, [sys.executable, "-c", code])',
    )
    target.hear()
    with StackReader(target.pid) as reader:
        wait_until(lambda: functions(reader, target.pid), "it to sleep")
        target.go()
        target.hear()
        with pytest.raises(StackError) as caught:
            reader.read(target.pid)
        assert caught.value.reason == "gone"
    with StackReader(target.pid) as reader:
        assert reader.read(target.pid).frames[-1].file == "<string>"


def test_a_deleted_and_stripped_executable(start: Start, tmp_path: Path) -> None:
    """The symbols come from memory, so neither the section headers nor the file need to be there."""
    if shutil.which("strip") is None:
        pytest.skip("no strip(1) here")
    copy = tmp_path / "python-copy"
    shutil.copy(Path(pythons.need(pythons.SYSTEM)).resolve(), copy)
    subprocess.run(["strip", "--strip-all", str(copy)], check=True)
    target = start(pythons.SYSTEM, WAITS, "/usr/bin/env", "-S", str(copy), "-c", RUN_SECOND)
    said = target.hear()
    copy.unlink()
    with StackReader(target.pid) as reader:
        for tid, frames in said.items():
            assert reader.read(int(tid)).frames == expected(frames)[:128]


RUN_SECOND = "import sys; name = sys.argv[2]; exec(compile(open(name).read(), name, 'exec'))"


def test_another_program() -> None:
    """A process that is no Python is told apart in a word."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            with pytest.raises(StackError) as caught:
                StackReader(process.pid)
            assert caught.value.reason == "not_python"
        finally:
            process.kill()


def test_no_process() -> None:
    """A PID that nobody has is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(StackError) as caught:
        StackReader(process.pid)
    assert caught.value.reason == "gone"


@EVERY
def test_a_thread_that_python_does_not_know(start: Start, name: str) -> None:
    """A TID of another process is no thread of this one."""
    target = start(name, "say(1); sys.stdin.readline()")
    target.hear()
    with StackReader(target.pid) as reader:
        for _ in range(3):
            with pytest.raises(StackError) as caught:
                reader.read(os.getpid())
            assert caught.value.reason == "no_thread"


@EVERY
def test_hostile_names(start: Start, name: str) -> None:
    """Newlines, escapes and characters of every width come as they are; what is no character is replaced."""
    target = start(name, NAMES)
    tid, file = target.hear()
    raw = file.encode("latin-1").decode("utf-8", "surrogateescape").replace("\udcff", "\ufffd")
    with StackReader(target.pid) as reader:
        frame = reader.read(tid).frames[0]
    assert frame == Frame("für", raw, 2)
    frame.file.encode("utf-8")


@pytest.mark.parametrize("name", ["3.9", pythons.SYSTEM, "3.13"])
def test_threads_that_come_and_go(start: Start, name: str) -> None:
    """A sleeping thread among 300 others is found although the list of threads never rests."""
    target = start(name, THREADS)
    ((tid, frames),) = target.hear().items()
    right, reasons = 0, set()
    for _ in range(50):
        with StackReader(target.pid) as reader:
            try:
                found = reader.read(int(tid)).frames
            except StackError as error:
                reasons.add(error.reason)
                continue
            assert found == expected(frames)
            right += 1
    assert right >= 25
    assert reasons <= {"torn"}


@pytest.mark.parametrize("name", ["3.8", "3.10", pythons.SYSTEM, "3.12", "3.13"])
def test_a_subinterpreter(start: Start, name: str) -> None:
    """A thread inside a subinterpreter has that one's frames first, then those of who called it."""
    target = start(name, SUBINTERPRETER)
    target.hear()

    with StackReader(target.pid) as reader:
        wait_until(lambda: "inner" in functions(reader, target.pid), "the inner function")
        found = functions(reader, target.pid)
    assert [word for word in found if word in ("inner", "outer")] == ["inner", "outer"]
    assert found[-1] == "<module>"


CHAINS = {
    "müller": ["middle", "leaf", "sleep"],
    "i": ["iterates", "generator", "sleep"],
    "a": ["awaits", "Awaitable.__await__", "sleep"],
    "d": ["future"],
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, ()) for name in ("3.11", pythons.SYSTEM, "3.12", "3.13", "3.14", "3.15")),
        *((name, ("dict",)) for name in ("3.11", "3.12", "3.13", "3.14", "3.15")),
        *((name, ("eager",)) for name in ("3.12", "3.13", "3.14", "3.15")),
        (sys.executable, ("uvloop",)),
    ],
)
def test_await_chains(start: Start, name: str, arguments: tuple[str, ...]) -> None:
    """Each task of a loop that a call blocks is read with its chain; the guilty one is told as running."""
    if "uvloop" in arguments:
        pytest.importorskip("uvloop")
    target = start(name, TASKS, arguments=arguments)
    target.hear()
    with StackReader(target.pid) as reader:
        wait_until(lambda: functions(reader, target.pid)[:1] == ["blocks"], "the loop to be blocked")
        found = reader.tasks()
    assert found.complete
    chains = {task.name: [frame.function for frame in task.frames] for task in found.tasks}
    assert {key: chains[key] for key in CHAINS} == CHAINS
    guilty = [task for task in found.tasks if task.running]
    assert [[frame.function for frame in task.frames] for task in guilty] == [["guilty"]]
    main = next(task for task in found.tasks if "main" in chains[task.name][:2])  # uvloop wraps it
    assert len(found.tasks) == len(CHAINS) + 2
    assert main.name == "Task-1"
    assert len({task.loop for task in found.tasks}) == 1
    source = (PREAMBLE + TASKS).splitlines()
    leaf = next(task for task in found.tasks if task.name == "müller").frames[1]
    assert leaf.line is not None
    assert source[leaf.line - 1].strip() == "await asyncio.sleep(1000)"


@pytest.mark.parametrize("name", [pythons.SYSTEM, "3.13", "3.14", "3.15"])
def test_tasks_of_a_program_without_asyncio(start: Start, name: str) -> None:
    """A program that never imported asyncio has no tasks."""
    target = start(name, "say(1); sys.stdin.readline()")
    target.hear()
    with StackReader(target.pid) as reader:
        assert reader.tasks() == ((), True, False)


@pytest.mark.parametrize("name", ["3.8", "3.10"])
def test_tasks_of_other_versions_are_unsupported(start: Start, name: str) -> None:
    """Where the tasks are kept otherwise it is said, and nothing is guessed."""
    target = start(name, "say(1); sys.stdin.readline()")
    target.hear()
    with StackReader(target.pid) as reader, pytest.raises(StackError) as caught:
        reader.tasks()
    assert caught.value.reason == "unsupported"


TASKS_WITH_COROUTINES = r"""
import asyncio
async def inner():
    await asyncio.sleep(1000)
async def returns():
    return inner()
async def main():
    ended = [asyncio.create_task(returns()) for _ in range(100)]
    await asyncio.wait(ended)
    held = asyncio.create_task(inner(), name="held")
    await asyncio.sleep(0)
    say(1)
    await held
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["3.11", pythons.SYSTEM, "3.12", "3.13", "3.14", "3.15"])
def test_a_coroutine_that_a_task_returned_is_not_what_it_runs(start: Start, name: str) -> None:
    """Where tasks have their coroutine is learnt from any of them, whatever else it holds."""
    target = start(name, TASKS_WITH_COROUTINES)
    target.hear()
    with StackReader(target.pid) as reader:
        found = reader.tasks()
    assert {task.name: task.frames[-1].function for task in found.tasks if task.name == "held"} == {
        "held": "sleep"
    }


TASK_CHURN = r"""
import asyncio
async def nap():
    await asyncio.sleep(0)
async def short():
    await nap()
async def long():
    await asyncio.sleep(1000)
async def main():
    held = [asyncio.create_task(long(), name="long") for _ in range(20)]
    await asyncio.sleep(0)
    say(1)
    while True:
        await asyncio.gather(*[short() for _ in range(20)])
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["3.11", pythons.SYSTEM, "3.12", "3.13", "3.14", "3.15"])
def test_tasks_that_come_and_go(start: Start, name: str) -> None:
    """While tasks are made and end, what is read are tasks of this program or an error."""
    target = start(name, TASK_CHURN)
    target.hear()
    known = {"main", "long", "sleep", "short", "nap", "__sleep0", "gather"}
    whole, reasons = 0, set()
    with StackReader(target.pid) as reader:
        for _ in range(200):
            try:
                found = reader.tasks()
            except StackError as error:
                reasons.add(error.reason)
                continue
            assert {frame.function for task in found.tasks for frame in task.frames} <= known
            whole += sum(task.name == "long" for task in found.tasks) == 20
    assert reasons <= {"torn", "unreadable"}
    assert whole > 50
