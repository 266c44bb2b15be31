"""What the tasks of real loops wait for, read from outside: each kind of wait, each socket by its peer."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import wait_until
from unit.pystack import pythons
from whyidle_daemon.awaits import chains
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.proc import Proc
from whyidle_daemon.pystack import StackError, StackReader, own_frame

PROGRAM = r"""
import asyncio, socket, ssl, sys, time
PORTS = dict(pair.split("=") for pair in sys.argv[1].split(","))
AT = "127.0.0.1"

async def stream():
    reader, writer = await asyncio.open_connection(AT, PORTS["stream"])
    await reader.read()

async def waited():
    reader, writer = await asyncio.open_connection(AT, PORTS["waited"])
    await asyncio.wait_for(reader.readline(), 1000)

async def drain():
    reader, writer = await asyncio.open_connection(AT, PORTS["drain"])
    writer.write(bytes(1 << 24))
    await writer.drain()

async def raw():
    client = socket.socket()
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (AT, int(PORTS["raw"])))
    await asyncio.get_running_loop().sock_recv(client, 1)

def context():
    found = ssl.create_default_context()
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    return found

async def tls():
    reader, writer = await asyncio.open_connection(AT, PORTS["tls"], ssl=context())
    await reader.read()

async def handshake():
    await asyncio.open_connection(AT, PORTS["handshake"], ssl=context())

async def httpx_get():
    import httpx
    async with httpx.AsyncClient(timeout=1000) as client:
        await client.get(f"http://{AT}:{PORTS['httpx_get']}/")

async def httpx_tls():
    import httpx
    async with httpx.AsyncClient(timeout=1000, verify=False) as client:
        await client.get(f"https://{AT}:{PORTS['httpx_tls']}/")

async def aiohttp_get():
    import aiohttp
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{AT}:{PORTS['aiohttp_get']}/") as answer:
            await answer.read()

async def timer():
    await asyncio.sleep(1000)

async def lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()

async def queue():
    await asyncio.Queue().get()

async def event():
    sock, beside = socket.socketpair()
    await asyncio.Event().wait()

async def thread():
    await asyncio.to_thread(sys.stdin.readline)

async def threads():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(None, sys.stdin.read, 1) for _ in range(2)))

async def child():
    # It ends with its parent, however that ends.
    reads = (sys.executable, "-c", "import sys; sys.stdin.read()")
    process = await asyncio.create_subprocess_exec(*reads, stdin=asyncio.subprocess.PIPE)
    try:
        await process.wait()
    finally:
        process.kill()

async def future():
    await asyncio.get_running_loop().create_future()

async def serve(reader, writer):
    await reader.read()

async def main():
    server = await asyncio.start_server(serve, AT, 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    await asyncio.gather(*(globals()[name]() for name in sys.argv[2:]))

if sys.argv[2] == "uvloop":
    import uvloop
    del sys.argv[2]
    uvloop.run(main())
else:
    asyncio.run(main())
"""
KINDS = {
    "timer": "timer",
    "lock": "lock",
    "queue": "queue",
    "event": "lock",
    "thread": "thread",
    "threads": "future",
    "child": "child",
    "future": "future",
    "main": "task",
    "serve": "client",
}
STREAMS = ("stream", "waited", "drain", "tls", "handshake")
LIBRARIES = ("httpx_get", "httpx_tls", "aiohttp_get")


class Servers:
    """A listener for each name: it accepts and says nothing; those of TLS shake hands."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._kept: list[socket.socket] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                ),
                *("-days", "2", "-subj", "/CN=test", "-keyout", key, "-out", cert),
            ],
            check=True,
            capture_output=True,
        )
        self._context.load_cert_chain(cert, key)
        self.listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
        self.ports = {name: listener.getsockname()[1] for name, listener in self.listeners.items()}
        self._threads = [
            threading.Thread(target=self._accept, args=(listener, "tls" in name))
            for name, listener in self.listeners.items()
        ]
        for thread in self._threads:
            thread.start()

    def _accept(self, listener: socket.socket, tls: bool) -> None:
        try:
            while True:
                connection, _ = listener.accept()
                if tls:
                    connection = self._context.wrap_socket(connection, server_side=True)
                self._kept.append(connection)
        except OSError:
            pass

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()
        for connection in self._kept:
            connection.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    if os.geteuid() != 0:
        pytest.skip("reading another process's memory needs root")
    found = Servers(tmp_path, [*STREAMS, "raw", *LIBRARIES])
    yield found
    found.close()


def epoll_of(pid: int) -> int:
    """The epoll descriptor of a process; -1 when it has none yet."""
    proc = Proc()
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        if proc.link(pid, f"fd/{name}") == "anon_inode:[eventpoll]":
            return int(name)
    return -1


def told(pid: int, sets: EpollSets) -> dict[str, tuple[str, int | None]]:
    """By function: what its task waits for, and the port at the other end of its socket."""
    found: dict[str, tuple[str, int | None]] = {}
    epoll = epoll_of(pid)
    try:
        with StackReader(pid) as reader:
            members = sets.members(pid, epoll)
            tasks = reader.tasks(registered=members, selector=epoll)
            nobody = reader.tasks(registered=members, selector=epoll + 1)
    except StackError:
        return {}
    assert nobody.tasks == ()
    for chain in chains(tasks.tasks):
        own = own_frame(chain.frames)
        member = members.get(chain.task.descriptor) if chain.task.descriptor is not None else None
        if own is None:
            continue
        name = chain.frames[own].function.rpartition(".")[2]
        kind = "client" if member is not None and member.inbound else chain.task.kind
        port = member.peer.remote_port if member is not None and member.peer is not None else None
        if kind != "task" or name == "main":
            found[name] = kind, None if kind == "client" else port
    return found


@pytest.mark.parametrize(
    ("name", "also", "loop"),
    [
        ("3.11", ("raw",), ""),
        (pythons.SYSTEM, ("raw",), ""),
        ("3.12", ("raw",), ""),
        ("3.13", ("raw",), ""),
        ("3.14", ("raw",), ""),
        ("3.15", ("raw",), ""),
        (sys.executable, ("raw", *LIBRARIES), ""),
        (sys.executable, LIBRARIES, "uvloop"),
    ],
)
def test_what_each_task_waits_for(
    servers: Servers, tmp_path: Path, name: str, also: tuple[str, ...], loop: str
) -> None:
    """Timers, locks and threads by name; sockets by the port that they are connected to, through TLS too."""
    for module in ({"httpx", "aiohttp"} if LIBRARIES[0] in also else set()) | ({loop} if loop else set()):
        pytest.importorskip(module)
    python = name if name == sys.executable else pythons.need(name)
    script = tmp_path / "agent.py"
    script.write_text(PROGRAM)
    sockets = [*STREAMS, *also]
    functions = [*sockets, *(word for word in KINDS if word not in ("main", "serve"))]
    expected: dict[str, tuple[str, int | None]] = {word: (kind, None) for word, kind in KINDS.items()}
    expected |= {word: ("socket", servers.ports[word]) for word in sockets}
    if loop:  # its connect is no coroutine of Python's: the connection is in the making, and not seen
        expected["handshake"] = ("connect", None)
    ports = ",".join(f"{word}={servers.ports[word]}" for word in sockets)
    with subprocess.Popen(
        [python, str(script), ports, *([loop] if loop else []), *functions], stdin=subprocess.PIPE
    ) as process:
        try:
            sets = EpollSets(Proc(), time.monotonic_ns)
            found: dict[str, tuple[str, int | None]] = {}

            def as_expected() -> bool:
                found.clear()
                found.update(told(process.pid, sets))
                return found == expected

            try:
                wait_until(as_expected, "the tasks to wait", timeout_s=20, every_s=0.05)
            except AssertionError:
                assert found == expected  # which says what is different
        finally:
            process.kill()


MANY = r"""
import asyncio, sys
async def nap():
    await asyncio.sleep(1000)
async def left():
    await asyncio.sleep(0.01)
async def right():
    await asyncio.sleep(0.01)
async def walks():
    while True:
        await left()
        await right()
async def main():
    tasks = [asyncio.create_task(nap()) for _ in range(int(sys.argv[1]))]
    tasks.append(asyncio.create_task(walks()))
    await asyncio.sleep(0)
    print(flush=True)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["3.11", "3.12", "3.13", "3.14", "3.15"])
def test_tasks_that_were_read_before(tmp_path: Path, name: str) -> None:
    """A few new ones at a time until all are known; then only what moves is read anew, and seen to move."""
    if os.geteuid() != 0:
        pytest.skip("reading another process's memory needs root")
    script = tmp_path / "many.py"
    script.write_text(MANY)
    with subprocess.Popen([pythons.need(name), str(script), "100"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            epoll = epoll_of(process.pid)
            with StackReader(process.pid) as reader:
                counts: list[int] = []
                seen: set[str] = set()

                def all_known() -> bool:
                    found = reader.tasks(registered={}, selector=epoll, fresh=30)
                    counts.append(len(found.tasks))
                    assert found.more == (len(found.tasks) < 102)
                    # By its frames: what it awaits next may have the address of what it awaited last.
                    for task in found.tasks:
                        if task.frames[0].function == "walks":
                            seen.update(frame.function for frame in task.frames[1:2])
                    return len(found.tasks) == 102 and seen == {"left", "right"}

                wait_until(all_known, "all tasks to be known, and one to be seen to move")
                assert counts[0] <= 30
                assert counts[:4] == sorted(counts[:4])
                again = reader.tasks(registered={}, selector=epoll, fresh=3)
                assert len(again.tasks) >= 100
        finally:
            process.kill()
