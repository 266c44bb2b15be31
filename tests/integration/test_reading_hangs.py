"""A target whose memory never comes ends the daemon within its limit, and the next one lives with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, wait_until
from harness_cli import Daemon, stalls
from whyidle_wire.records import Observe, Observing, Status, StatusReply

pytestmark = pytest.mark.bpf

THEIRS = 65_431
LIMIT_S = 1.0
SHORT = f"""
import sys
from whyidle_daemon import attaching, reading_guard, start
reading_guard.LIMIT_S, attaching.LIMIT_S = {LIMIT_S}, {LIMIT_S / 4}
del sys.argv[0]
sys.exit(start.main())
"""
# It serves a file system of one file. What it answers to a read decides what follows.
SERVER = """
import ctypes, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
size, number = ctypes.c_size_t, ctypes.c_int
libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
folder, uid = sys.argv[1], int(sys.argv[2])
try:
    device = os.open("/dev/fuse", os.O_RDWR)
except OSError:
    sys.exit("no FUSE")
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"hostile", folder.encode(), b"fuse", 0, options):
    sys.exit("no FUSE")
SIZE = 1 << 20
def attributes(inode, mode):
    return struct.pack("<6Q10I", inode, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def serve(answers):
    reads = 0
    while True:
        request = os.read(device, 1 << 20)
        _, code, unique, node = struct.unpack_from("<IIQQ", request)
        answer, error = b"", 0
        if code == 26:  # FUSE_INIT
            answer = struct.pack("<IIIIHHIIHHI", 7, 31, 65536, 0, 12, 10, 65536, 1, 1, 0, 0).ljust(64, b"\\0")
        elif code == 3:  # FUSE_GETATTR
            inode, mode = (1, 0o40755) if node == 1 else (2, 0o100644)
            answer = struct.pack("<QII", 100, 0, 0) + attributes(inode, mode)
        elif code == 1:  # FUSE_LOOKUP
            answer = struct.pack("<QQQQII", 2, 0, 100, 100, 0, 0) + attributes(2, 0o100644)
        elif code == 14:  # FUSE_OPEN
            answer = struct.pack("<QII", 1, 0, 0)
        elif code == 15 and not reads:  # FUSE_READ: the kernel tries again, and keeps a lock then
            reads, error = 1, -5
        elif code == 15:
            os.write(tells, b"1")
            continue
        else:
            error = -38
        os.write(device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
        if code == 14 and not answers:
            time.sleep(1000)
"""
# Over the end of it the name of its own code's file comes to lie: whoever reads that asks the server, which
# listens no more. The program itself never looks at it.
HOSTILE = (
    SERVER
    + """
if os.fork() == 0:
    serve(False)
os.close(device)
name = "/app/" + "x" * (SIZE // 2) + ".py"
space = {"ends": socket.socketpair()}
exec(compile("def search_web():\\n    ends[0].recv(1)", name, "exec"), space)
name = space["search_web"].__code__.co_filename
file = os.open(folder + "/file", os.O_RDONLY)
first = -(-id(name) // 4096) * 4096
if libc.mmap(first, SIZE // 4, 1, 0x12, file, 0) != first:  # PROT_READ, MAP_PRIVATE | MAP_FIXED
    sys.exit("no mapping")
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
print("ready", flush=True)
space["search_web"]()
"""
)
# One thread waits for a page of it with the lock of the mappings held, another one for that lock, to change
# them: from then on nobody reads its command line.
LOCKED = (
    SERVER
    + """
import threading
told, tells = os.pipe()
if os.fork() == 0:
    serve(True)
os.close(device)
file = os.open(folder + "/file", os.O_RDONLY)
page = libc.mmap(None, SIZE, 1, 1, file, 0)
libc.madvise(ctypes.c_void_p(page), size(SIZE), 1)  # MADV_RANDOM: nothing is read ahead
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
threading.Thread(target=lambda: libc.strlen(ctypes.c_void_p(page)), daemon=True).start()
os.read(told, 1)
os.write(1, b"ready\\n")
libc.mmap(None, 4096, 1, 0x22, -1, 0)
"""
)
HONEST = """
import os, socket, sys
os.setresuid(*[int(sys.argv[1])] * 3)
def think(ends):
    ends[0].recv(1)
print("ready", flush=True)
think(socket.socketpair())
"""


@contextmanager
def running(*command: str | Path) -> Iterator[int]:
    """The PID of a program that has said that it is ready, in a session of its own that ends with it."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout
            assert process.stderr
            if process.stdout.readline() != "ready\n":
                said = process.stderr.read()
                if said.strip() == "no FUSE":
                    pytest.skip("this machine has no FUSE")
                pytest.fail(said)
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its server too, or it waits for that even now


def code_of(daemon: Daemon, pid: int) -> str | None:
    """In which function it waits, as far as the daemon knows, which answers meanwhile."""
    with stalls(daemon, pid) as next_stall, daemon.client() as client:
        while (stall := next_stall()).pid != pid:
            pass
        client.send(Status(1))
        assert isinstance(client.receive(10 * PATIENCE), StatusReply)
        return stall.function


def test_a_read_that_hangs_costs_one_restart(tmp_path: Path) -> None:
    """The daemon ends by its own timer; the next one observes the same process, without its code."""
    names = ("state", "mounted", "hung", "after", "again", "lifted")
    state, mounted, *folders = [tmp_path / name for name in names]
    for folder in (state, mounted, *folders):
        folder.mkdir()
    start: dict[str, Any] = {"arguments": ["--state", state], "prefix": [sys.executable, "-c", SHORT]}
    # Its mount is in a namespace of its own, and goes with it.
    hostile = ["unshare", "--mount", "--", sys.executable, "-c", HOSTILE, mounted, str(THEIRS)]
    with (
        running(*hostile) as pid,
        running(sys.executable, "-c", HONEST, str(THEIRS)) as theirs,
        running(sys.executable, "-c", HONEST, str(THEIRS + 1)) as honest,
    ):
        with Daemon(folders[0], **start) as daemon, daemon.client() as client:
            client.send(Observe(1, pid, ("x",), 0.0))
            assert isinstance(client.receive(10 * PATIENCE), Observing)
            began = time.monotonic()
            wait_until(lambda: daemon.process.poll() is not None, "the daemon's end")
            assert daemon.process.returncode == -signal.SIGALRM, daemon.said()
            assert time.monotonic() - began < (LIMIT_S + 5) * PATIENCE
        for folder in folders[1:3]:
            with Daemon(folder, **start) as daemon:
                assert code_of(daemon, pid) is None
                assert code_of(daemon, theirs) is None
                assert code_of(daemon, honest) == "think"
                assert (f"of user {THEIRS}, which hung" in daemon.said()) == (folder == folders[1])
                assert daemon.process.poll() is None
        (state / "reading").unlink()
        with Daemon(folders[3], **start) as daemon:
            assert code_of(daemon, theirs) == "think"


def test_a_command_line_that_hangs_costs_one_restart(tmp_path: Path) -> None:
    """Discovery asks every process of the host for that: the next daemon leaves this user's alone."""
    state, mounted, *folders = [tmp_path / name for name in ("state", "mounted", "hung", "after")]
    for folder in (state, mounted, *folders):
        folder.mkdir()
    mark = f"mark-{os.getpid()}-locked"
    rule = f'[discovery]\ndefaults = false\n[[discovery.rule]]\nname = "m"\ncommand = ["*{mark}*"]\n'
    start: dict[str, Any] = {
        "arguments": ["--state", state], "prefix": [sys.executable, "-c", SHORT], "config": rule,
    }  # fmt: skip
    hostile = ["unshare", "--mount", "--", sys.executable, "-c", LOCKED, mounted, str(THEIRS)]
    honest = [sys.executable, "-c", HONEST, str(THEIRS + 1), mark]
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as others:
        theirs.enter_context(running(*hostile))
        found = others.enter_context(running(*honest))
        with Daemon(folders[0], **start, wait=False) as daemon:
            wait_until(lambda: daemon.process.poll() is not None, "the daemon's end")
            assert daemon.process.returncode == -signal.SIGALRM, daemon.said()
        with Daemon(folders[1], **start) as daemon:
            assert f"of user {THEIRS}, which hung" in daemon.said()
            # A probe on the C library goes into every process, and nothing ends the wait for the lock there.
            wait_until(lambda: f"observing process {found}" in daemon.said(), "the honest one to be found")
            assert "no uprobes for now" in daemon.said()
            assert code_of(daemon, found) == "think"
            theirs.close()  # the lock is let go, and the kernel goes on
            wait_until(lambda: "uprobes are attached again" in daemon.said(), "probes for who had none")
