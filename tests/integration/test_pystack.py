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
from whyidle_daemon.pystack import Frame, StackError, StackReader, own_frame

PREAMBLE = r"""
import json, linecache, os, sys, threading, time

def state(tid):
    with open("/proc/self/task/%d/stat" % tid) as file:
        return file.read().rpartition(")")[2].split()[0]

def stack(frame):
    found = []
    while frame:
        code = frame.f_code
        found.append([getattr(code, "co_qualname", code.co_name), code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found

def truth(threads):
    # Every thread sleeps on a line that says so, twice in a row.
    while True:
        now = {t.native_id: stack(sys._current_frames()[t.ident]) for t in threads}
        if all("# wait" in linecache.getline(f[0][1], f[0][2]) and state(t) == "S" for t, f in now.items()):
            if now == {t.native_id: stack(sys._current_frames()[t.ident]) for t in threads}:
                return now
        time.sleep(0.001)

def start(*targets):
    threads = [threading.Thread(target=t, daemon=True) for t in targets]
    for thread in threads:
        thread.start()
    return threads

def say(value):
    print(json.dumps(value), flush=True)
"""

WAITS = r"""
import functools, socket
lock = threading.Lock(); lock.acquire()
a, b = socket.socketpair()

def sleeps():
    def level_1():
        level_2()
    def level_2(n=3):
        if n:
            level_2(n - 1)
        else:
            time.sleep(1000)  # wait
    level_1()

def receives():
    (lambda: a.recv(1))()  # wait

def locks():
    for _ in generator():
        pass

def generator():
    yield from inner_generator()

def inner_generator():
    yield 1
    lock.acquire()  # wait

def comprehension():
    return [time.sleep(1000) for _ in range(3)]  # wait

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

class Agent:
    @decorated
    def method(self):
        return self.prop

    @property
    def prop(self):
        return Agent.make()

    @classmethod
    def make(cls):
        return sorted([2, 1], key=cls.key)

    @staticmethod
    def key(_):
        threading.Event().wait()

class Lazy:
    def __del__(self):
        time.sleep(1000)  # wait

def finalizer():
    Lazy()

def executed():
    exec(compile("def inside():\n    lock.acquire()  # wait\n\n\ninside()", os.environ["EXECUTED"], "exec"),
         dict(lock=lock))

def long_lines():
    if lock:
        (
            lock  # wait (until 3.9 a call is on its first line)

            .acquire(  # wait
                True,
            )
        )

async def coroutine():
    await inner_coroutine()

async def inner_coroutine():
    time.sleep(1000)  # wait

def drives():
    coroutine().send(None)

def many_locals():
    x = list(range(400)); a0, a1, a2, a3, *rest = x
    deep(120)

def deep(n):
    if n:
        return deep(n - 1)
    lock.acquire()  # wait

threads = start(sleeps, receives, locks, comprehension, finalizer, executed, long_lines, drives, many_locals)
say({tid: found for tid, found in truth(threads).items()})
sys.stdin.readline()
"""


class Target:
    """A program of some interpreter that says one JSON value per line, then waits to be killed."""

    def __init__(self, python: list[str], code: str, folder: Path) -> None:
        script = folder / "target.py"
        script.write_text(PREAMBLE + code)
        (folder / "executed.py").write_text("def inside():\n    lock.acquire()  # wait\n\n\ninside()")
        environment = os.environ | {"EXECUTED": str(folder / "executed.py")}
        self.process = subprocess.Popen(
            [*python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
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

    def start(name: str, code: str, *prefix: str) -> Target:
        running.append(Target([*prefix, pythons.need(name)], code, tmp_path))
        return running[-1]

    yield start
    for target in running:
        target.close()


def expected(said: list[list[Any]]) -> tuple[Frame, ...]:
    return tuple(Frame(*frame) for frame in said)


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


@EVERY
def test_main_thread(start: Start, name: str) -> None:
    """The main thread is found by the process's own number, down to its first line."""
    target = start(name, "def main():\n    sys.stdin.readline()\nsay(1); main()")
    target.hear()

    def innermost() -> str:
        try:
            return reader.read(target.pid).frames[0].function
        except (StackError, IndexError):
            return ""

    with StackReader(target.pid) as reader:
        wait_until(lambda: innermost() == "main", "the main thread to wait")
        assert [frame.function for frame in reader.read(target.pid).frames] == ["main", "<module>"]


CHURN = r"""
import random
def churn(n=0):
    def a(k):
        return [b(i) for i in range(k % 4)]
    def b(k):
        return sum(c(k))
    def c(k):
        yield from (i for i in range(k))
    while True:
        scope = {}
        exec("def f%d(x):\n return x if x < 1 else f%d(x - 1)" % (n, n), scope)
        scope["f%d" % n](n % 30)
        a(n)
        n += 1

def sleeper():
    level(12)

def level(n):
    if n:
        return level(n - 1)
    time.sleep(1000)  # wait

sleeping = start(sleeper)
busy = start(churn, churn, churn)
say({tid: found for tid, found in truth(sleeping).items()})
sys.stdin.readline()
"""


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

    def functions() -> list[str]:
        try:
            with StackReader(child) as reader:
                return [frame.function for frame in reader.read(child).frames]
        except StackError:
            return []

    try:
        wait_until(lambda: functions() == ["child", "<module>"], "the child's stack")
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
        reader.read(target.pid)
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
        reader.read(target.pid)
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


NAMES = r"""
name = sys.argv[0].replace("target.py", "") + "new\nline\x1b[31m\udcff\u00e9\u20ac\U0001f600.py"
code = compile("def f\u00fcr():\n    time.sleep(1000)  # wait\nf\u00fcr()", name, "exec")
def runs():
    exec(code, dict(time=time))
thread, = start(runs)
def inside():
    return "f\u00fcr" in [f[0] for f in stack(sys._current_frames()[thread.ident])]
while not inside() or state(thread.native_id) != "S":
    time.sleep(0.001)
say([thread.native_id, name.encode("utf-8", "surrogateescape").decode("latin-1")])
sys.stdin.readline()
"""


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


THREADS = r"""
def waits():
    event.wait()
event = threading.Event()
for _ in range(300):
    start(waits)
def come_and_go():
    while True:
        thread = threading.Thread(target=int); thread.start(); thread.join()
sleeping = start(lambda: time.sleep(1000))  # wait
start(come_and_go)
say({tid: found for tid, found in truth(sleeping).items()})
sys.stdin.readline()
"""


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


SUBINTERPRETER = r"""
try:
    import _interpreters as sub
except ImportError:
    import _xxsubinterpreters as sub
def outer():
    run = getattr(sub, "run_string")
    run(sub.create(), "def inner():\n    import sys\n    sys.stdin.readline()\nprint(1, flush=True)\ninner()")
outer()
"""


@pytest.mark.parametrize("name", ["3.8", "3.10", pythons.SYSTEM, "3.12", "3.13"])
def test_a_subinterpreter(start: Start, name: str) -> None:
    """A thread inside a subinterpreter has that one's frames first, then those of who called it."""
    target = start(name, SUBINTERPRETER)
    target.hear()

    def functions() -> list[str]:
        try:
            return [frame.function for frame in reader.read(target.pid).frames]
        except StackError:
            return []

    with StackReader(target.pid) as reader:
        wait_until(lambda: "inner" in functions(), "the inner function")
        found = functions()
    assert [word for word in found if word in ("inner", "outer")] == ["inner", "outer"]
    assert found[-1] == "<module>"
