"""What a client makes the daemon keep and do: a bounded amount, and at the expense of its own user."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest
import uvloop

from whyidle_daemon import admission as admissions
from whyidle_daemon.access import BURST_S, Access, Account, Peer, Scope
from whyidle_daemon.admission import Admission
from whyidle_daemon.clients import MAX_KEPT_BYTES, Client
from whyidle_daemon.config import Access as AccessConfig
from whyidle_daemon.config import Config
from whyidle_daemon.proc import Proc
from whyidle_daemon.server import Server
from whyidle_wire.codec import encode
from whyidle_wire.records import PROTOCOL, Hello, Observe, Record, Status, StatusReply

ALICE = Peer(1, 1000, 1000)
READ_BYTES = 256 << 10  # so much uvloop reads at once


def _hostile() -> bytes:
    """64 KiB that were 4 MB once they were decoded."""
    payload = b"\x92" + msgpack.packb(9999) + b"\xdc\x00\x0f" + (b"\xdc\x0f\xff" + b"\x80" * 4095) * 15
    return struct.pack(">I", len(payload)) + payload


def connected(make: Callable[[], Client], play: Callable[[Client, socket.socket], Any]) -> Any:
    """Run it on the daemon's loop with a client at one end of a socket pair."""

    async def whole() -> Any:
        ours, theirs = socket.socketpair()
        _, client = await asyncio.get_running_loop().create_connection(make, sock=ours)
        with theirs:
            theirs.setblocking(False)
            try:
                return await play(client, theirs)
            finally:
                client.abort()

    return uvloop.run(whole())


def deaf(*_: Any) -> None:
    """Nothing is done about it."""


def test_what_is_kept_of_a_client_on_hold() -> None:
    """Bytes as they came, a bounded number of them, and the status says how many."""

    async def play(client: Client, theirs: socket.socket) -> None:
        client.hold(60)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(theirs, _hostile() * 64))
        await asyncio.sleep(0.2)
        assert not sending.done()
        sending.cancel()
        assert MAX_KEPT_BYTES < client.queued_bytes <= MAX_KEPT_BYTES + READ_BYTES
        client.abort()
        await asyncio.sleep(0.01)
        assert client.queued_bytes == 0

    connected(lambda: Client(deaf, deaf, deaf), play)


def test_a_client_on_hold_that_hangs_up_is_gone() -> None:
    """No timer keeps it, nor what it had sent."""

    async def play() -> None:
        gone: list[weakref.ref[Client]] = []

        def make() -> Client:
            client = Client(deaf, deaf, deaf)
            gone.append(weakref.ref(client))
            return client

        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(make, sock=ours)
        client = gone[0]()
        assert client is not None
        client.hold(60)
        del client
        theirs.sendall(encode(Status(1)))
        await asyncio.sleep(0.01)
        theirs.close()
        await asyncio.sleep(0.05)
        gc.collect()
        assert gone[0]() is None

    uvloop.run(play())


def test_decoding_is_charged() -> None:
    """Also of what is no request, and the bytes alone."""
    costs: list[float] = []
    heard: list[Record] = []

    def make() -> Client:
        return Client(deaf, lambda _, record: heard.append(record), deaf, lambda _, cost: costs.append(cost))

    async def play(client: Client, theirs: socket.socket) -> None:
        large = encode(Observe(1, 2, ("x",) * 4000))
        await asyncio.get_running_loop().sock_sendall(theirs, large * 50)
        while len(heard) < 50:
            await asyncio.sleep(0.001)
        assert sum(costs) > 50 * 10e-6
        before = len(costs)
        theirs.sendall(large[:-1])
        await asyncio.sleep(0.01)
        assert len(costs) > before

    connected(make, play)


def test_who_comes_again_finds_his_debts() -> None:
    """A new connection is greeted, and on hold from the start."""
    admission = Admission(Access(AccessConfig(others="own"), cast(Any, None)))
    heard: list[Record] = []

    def opened(client: Client) -> None:
        client.peer = ALICE
        assert admission.admit(client)

    def on_record(client: Client, record: Record) -> None:
        heard.append(record)
        admission.greeted(client)

    async def play(client: Client, theirs: socket.socket) -> None:
        theirs.sendall(encode(Hello(PROTOCOL, "x")) * 2 + encode(Status(1)))
        await asyncio.sleep(0.05)
        assert heard == [Hello(PROTOCOL, "x")]

    admission._user(ALICE.uid).account.charge(Account.SHARE * (BURST_S + 5), admissions.time.monotonic())
    connected(lambda: Client(opened, on_record, admission.leave, admission.charge), play)


def test_a_reconnect_does_not_restore_the_burst() -> None:
    """Requests are counted per user, a subordinate one's as its owner's; who sees all has them for each."""

    async def play() -> None:
        config = AccessConfig(others="own", requests_per_second=1)
        admission = Admission(Access(config, cast(Any, None)))
        admission._subordinates = cast(Any, SimpleNamespace(owner=lambda uid: uid and 1000))

        def client(uid: int) -> Client:
            found = Client(deaf, deaf, deaf)
            found.peer = Peer(1, uid, uid)
            assert admission.admit(found)
            return found

        first = client(1000)
        assert [admission.spend(first) for _ in range(BURST_S + 1)] == [True] * BURST_S + [False]
        admission.leave(first)
        assert not admission.spend(client(1000))
        assert not admission.spend(client(100_001))
        for _ in range(2):
            root = client(0)
            assert all(admission.spend(root) for _ in range(BURST_S))

    asyncio.run(play())


def test_users_are_remembered_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was not heard for the longest is forgotten first."""
    monkeypatch.setattr(admissions, "MAX_USERS", 3)
    admission = Admission(Access(AccessConfig(others="own"), cast(Any, None)))
    for uid in (1, 2, 3, 1, 4, 5):
        admission._user(uid)
    assert list(admission._users) == [1, 4, 5]


def unread(client: Client) -> None:
    """Answers that fill the socket and more."""
    while client.queued_bytes == 0:
        client.answer(StatusReply(1, {"text": "x" * 50_000}))


def test_who_reads_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits until what was written is read, but not for ever."""
    monkeypatch.setattr("whyidle_daemon.clients.CLOSE_S", 0.05)

    async def play(client: Client, theirs: socket.socket) -> None:
        unread(client)
        client.close()
        client.close()
        await asyncio.sleep(0.01)
        assert client._transport is not None
        await asyncio.sleep(0.2)
        assert client._transport is None

    connected(lambda: Client(deaf, deaf, deaf), play)


class Targets:
    """Tracks nothing."""

    gpus = SimpleNamespace(gpus=())
    know_owners = False


def test_a_reload_ends_who_reads_nothing_too() -> None:
    """And what he had begun, at once."""
    server = Server(cast(Any, Targets()), Proc(), Config(access=AccessConfig(others="own")), deaf)
    stopped: list[Client] = []
    server._sessions.stop_all_of = stopped.append  # type: ignore[method-assign]

    def make() -> Client:
        client = server.connection()
        client._on_open = opened
        return client

    def opened(client: Client) -> None:
        client.peer = ALICE
        assert server._admission.admit(client)

    async def play(client: Client, theirs: socket.socket) -> None:
        unread(client)
        server.reload(Config())
        assert client.scope is Scope.NONE
        assert stopped == [client]
        await asyncio.sleep(0.01)
        assert len(server._admission) == 0

    connected(make, play)
