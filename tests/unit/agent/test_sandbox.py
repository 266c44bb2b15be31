"""The sandbox: what a program can do, what it cannot, and that nothing of it stays."""

import os
import secrets
import shutil
import signal
import threading
from unittest.mock import Mock

import psutil
import pytest

from whyidle_agent import sandbox
from whyidle_agent.sandbox import MAX_CODE_BYTES, Limits, execute_code

FAST = Limits(wall_s=1.0, cpu_s=1)
LIBC = (
    "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.{} < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"
)
needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None or not execute_code("print(1)").ok,
    reason="bubblewrap is not installed, or may not make namespaces here",
)


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@needs_bwrap
def test_what_a_program_prints_is_the_observation() -> None:
    """Output and exit status; a failure is said to be one."""
    assert execute_code("print(6 * 7)") == sandbox.Observation("42", ok=True)
    assert execute_code("raise SystemExit(3)").text.startswith("exit status 3")
    assert execute_code("") == sandbox.Observation("no output", ok=True)


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80), 5)", "unreachable"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "gaierror"),
        ("open('/x', 'w')", "Read-only"),
        ("open('/usr/x', 'w')", "Read-only"),
        ("open('/dev/shm/x', 'w')", "Read-only"),
        ("open('/etc/shadow')", "No such file"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("open('/tmp/x', 'wb').write(bytes(17 << 20))", "File too large"),
        ("[open(f'/tmp/{i}', 'wb').write(bytes(1 << 20)) for i in range(99)]", "No space left"),
        ("import mmap; mmap.mmap(-1, 24 << 20)", "not permitted"),
        ("import mmap, os; mmap.mmap(os.open('/dev/zero', os.O_RDWR), 24 << 20)", "Permission denied"),
        ("import os; os.memfd_create('x')", "not permitted"),
        (LIBC.format("shmget(0, 1 << 20, 0o1600)"), "not permitted"),
        (LIBC.format("msgget(0, 0o1600)"), "not permitted"),
        (LIBC.format("semget(0, 1000, 0o1600)"), "not permitted"),
        (
            "import subprocess; raise SystemExit(subprocess.call(['unshare', '-Urm', 'true']))",
            "not permitted",
        ),
        ("import os; os.setuid(0)", "Errno"),
        ("import os; os.kill(-1, 0); print(sorted(p for p in os.listdir('/proc') if p.isdigit()))", "Errno"),
    ],
)
def test_what_it_must_not_do_fails(code: str, says: str) -> None:
    """No network, no file of the host's, no more memory or disk than allowed, no other identity."""
    observation = execute_code(code)
    assert not observation.ok
    assert says in observation.text


@needs_bwrap
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os\nwhile True:\n try:\n  os.fork()\n except OSError:\n  pass", "longer than 1 s"),
        (
            "import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(99)",
            "longer",
        ),
        (
            "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(99)\ntime.sleep(99)",
            "longer than 1 s",
        ),
        ("import os, time\nos.close(1); os.close(2)\ntime.sleep(99)", "137|longer|ended"),
        ("while True: print('x' * 1000)", "printed more"),
        ("while True: pass", "exit status 137|longer than 1 s"),
        (
            "import os, time\nfor _ in range(8):\n if os.fork() == 0:\n  x = bytearray(100 << 20)\n"
            "  x[:] = b'1' * len(x)\n  time.sleep(99)\ntime.sleep(99)",
            "MiB of memory",
        ),
    ],
)
def test_a_program_that_does_not_end_is_ended_whole(code: str, says: str) -> None:
    """A fork bomb, one deaf to signals, one that detaches, floods, spins or hoards: nothing is left of it."""
    before = set(descendants())
    # What another limit is to end must not meet the clock first, on a busy machine.
    observation = execute_code(code, FAST if "longer" in says else Limits(wall_s=60))
    assert not observation.ok
    assert any(part in observation.text for part in says.split("|"))
    assert set(descendants()) <= before


@needs_bwrap
def test_what_an_ordinary_program_uses_is_there() -> None:
    """Threads, processes, memory of its own, memory shared by a file."""
    code = (
        "import mmap, subprocess, threading, multiprocessing as m\n"
        "seen = []\nthread = threading.Thread(target=seen.append, args=(1,))\nthread.start(); thread.join()\n"
        "p = m.Process(target=print, args=('forked',)); p.start(); p.join()\n"
        "mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).write(b'x')\n"
        "f = open('/tmp/x', 'w+b'); f.write(bytes(4096)); f.flush(); mmap.mmap(f.fileno(), 0).write(b'x')\n"
        "print(seen, subprocess.run(['true']).returncode)"
    )
    assert execute_code(code) == sandbox.Observation("forked 1 0", ok=True)


@needs_bwrap
def test_what_it_leaves_running_dies_with_it() -> None:
    """A child in a session of its own does not outlive the program that made it."""
    mark = secrets.token_hex(8)
    code = (
        "import os, sys\nif os.fork() == 0:\n os.setsid()\n"
        f" os.execv(sys.executable, ['{mark}', '-c', 'while 1: pass'])"
    )
    execute_code(code)
    assert not any(mark in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


@needs_bwrap
def test_it_sees_nothing_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the agent's environment nor its open files nor its processes."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    seen = execute_code(
        "import os\nprint('SECRET_TOKEN' in os.environ, os.getppid() < 9, len(os.listdir('/proc/self/fd')))"
    )
    assert seen.text == "False True 4"  # its three and the one that lists them


@needs_bwrap
def test_ctrl_c_ends_it_too() -> None:
    """KeyboardInterrupt comes out of the call with nothing left running."""
    before = set(descendants())

    def interrupt() -> None:
        while not any(process.name() == "python3" for process in descendants()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute_code("import time; time.sleep(99)", Limits(wall_s=60))
    thread.join()
    assert set(descendants()) <= before


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bubblewrap, or one that may not make namespaces: refused, with the reason."""
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    assert "install bubblewrap" in execute_code("print(1)").text
    # Ends with a failure before it has started anything, as bubblewrap does where it may not make namespaces.
    failing = "/bin/false"
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: failing)
    refused = execute_code("print(1)")
    assert not refused.ok
    assert refused.text.startswith("refused: ")


def test_without_a_filter_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor whose system calls are not known, the limit on memory would not hold."""
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: "/bin/false")
    monkeypatch.setattr(sandbox.os, "uname", lambda: Mock(machine="riscv64"))
    assert execute_code("print(1)").text == "refused: no sandbox for riscv64"


def test_too_much_code_is_refused() -> None:
    """What does not fit in the pipe is not run."""
    assert execute_code("#" * (MAX_CODE_BYTES + 1)).text.startswith("refused")
