"""What requests cost is their user's own: time, memory, and whose limits count."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.access import BURST_S, MAX_DEBT_S, Access, Account, Peer, Scope
from whyidle_daemon.admission import Admission
from whyidle_daemon.clients import MAX_ANSWERS_BYTES, Client
from whyidle_daemon.config import Access as AccessConfig
from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import Discovery
from whyidle_daemon.listing import _clipped
from whyidle_daemon.remembered import KEPT_S, MAX_KEPT, Remembered
from whyidle_daemon.requests import MAX_ROOTS, Requests
from whyidle_daemon.subordinates import Subordinates
from whyidle_wire.codec import encode
from whyidle_wire.records import Finish, Observe, Record, Status, StatusReply


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), max_size=50))
def test_nobody_gets_more_than_his_share(requests: list[tuple[float, float]]) -> None:
    """Who waits as long as he is told has had his share of the time, what was saved up and one request."""
    account, now, spent = Account(), 0.0, 0.0
    most = max((seconds for seconds, _ in requests), default=0.0)
    for seconds, pause in requests:
        now += pause
        wait = account.charge(seconds, now)
        spent += seconds
        assert 0 <= wait <= MAX_DEBT_S
        now += wait
        owed = most if most <= Account.SHARE * MAX_DEBT_S else spent  # a longer debt is let go
        assert spent <= Account.SHARE * (now + BURST_S) + owed + 1e-6


def test_whose_a_subordinate_user_is(tmp_path: Path) -> None:
    """Names and numbers; lines that are none say nothing; a changed file is read again."""
    path = tmp_path / "subuid"
    assert Subordinates(path).owner(100_001) == 100_001
    path.write_text(
        "root:100000:65536\n1234:200000:10\nno-such-user-at-all:300000:5\n:::\nx\nroot:a:b\n\xff:1:1\n"
    )
    found = Subordinates(path)
    wanted = {99_999: 99_999, 100_000: 0, 165_535: 0, 165_536: 165_536, 200_009: 1234, 300_001: 300_001}
    assert {uid: found.owner(uid) for uid in wanted} == wanted
    path.write_text("77:100000:65536\n")
    os.utime(path, ns=(1, 1))
    assert found.owner(100_000) == 77
    path.unlink()
    assert found.owner(100_000) == 100_000


def test_who_is_in_the_group_is_not_looked_up_at_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number once, a user's name once in a while, a subordinate user's never."""
    asked: list[object] = []
    members: list[str] = []

    def group(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(gr_gid=60, gr_mem=members)

    def user(uid: int) -> Any:
        asked.append(uid)
        return SimpleNamespace(pw_name=f"u{uid}")

    monkeypatch.setattr("whyidle_daemon.access.grp.getgrnam", group)
    monkeypatch.setattr("whyidle_daemon.access.pwd.getpwuid", user)
    clock = [0.0]
    access = Access(AccessConfig(others="own"), cast(Any, None))
    access._listed._clock = lambda: clock[0]
    for _ in range(50):
        assert access.scope(Peer(1, 1000, 1000)) is Scope.OWN
        assert access.scope(Peer(1, 100_001, 1000), named=False) is Scope.OWN
        assert access.scope(Peer(1, 1000, 1000, (60,))) is Scope.ALL
    assert asked == ["whyidle", 1000, "whyidle"]
    members.append("u1000")
    clock[0] += KEPT_S
    assert access.scope(Peer(1, 1000, 1000)) is Scope.ALL


def test_a_group_that_comes_later_is_found() -> None:
    """Who there is no such group for yet waits a minute at most, and nobody else is in it meanwhile."""
    clock, found = [0.0], {"there": 60}
    access = Access(AccessConfig(group="there", others="own"), cast(Any, None))
    access._group = Remembered({}.get, lambda: clock[0])
    member = Peer(1, 1000, 60)
    assert access.scope(member, named=False) is Scope.OWN
    access._group._look_up = found.get
    assert access.scope(member, named=False) is Scope.OWN
    clock[0] += KEPT_S
    assert access.scope(member, named=False) is Scope.ALL


def test_what_is_remembered_is_bounded() -> None:
    """Of any number of users the last are known."""
    asked: list[int] = []
    remembered = Remembered(asked.append, lambda: 0.0)
    for number in (*range(MAX_KEPT + 1), MAX_KEPT, 0):
        remembered(number)
    assert asked == [*range(MAX_KEPT + 1), 0]
    assert len(remembered._known) == MAX_KEPT


def test_names_of_subordinate_users_are_looked_up_when_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the whole file, and each once in a while."""
    asked: list[str] = []

    def user(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(pw_uid=1000 + len(asked))

    monkeypatch.setattr("whyidle_daemon.subordinates.pwd.getpwnam", user)
    path = tmp_path / "subuid"
    path.write_text("".join(f"u{number}:{number}00000:65536\n" for number in range(1, 1000)))
    found = Subordinates(path)
    assert [found.owner(uid) for uid in (5, 300_001, 300_002, 5, 300_001)] == [5, 1001, 1001, 5, 1001]
    assert asked == ["u3"]


def scene(play: Any) -> Any:
    """Run it on the daemon's loop, with a client at one end of a socket pair; it is given what was asked."""

    async def whole() -> Any:
        asked: list[Record] = []
        ours, theirs = socket.socketpair()
        client = Client(lambda _: None, lambda _, record: asked.append(record), lambda _: None)
        await asyncio.get_running_loop().create_connection(lambda: client, sock=ours)
        with theirs:
            theirs.setblocking(False)
            try:
                return await play(client, theirs, asked)
            finally:
                client.abort()

    return uvloop.run(whole())


def test_of_a_user_with_debts_nothing_is_heard_for_a_while() -> None:
    """What came in the meantime is looked at then, in order: nothing is lost."""

    async def play(client: Client, theirs: socket.socket, asked: list[Record]) -> None:
        client.hold(0.05)
        theirs.sendall(b"".join(encode(Status(number)) for number in range(5)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert asked == []
        while len(asked) < 5:
            await asyncio.sleep(0.01)
        assert asked == [Status(number) for number in range(5)]

    scene(play)


def test_who_hangs_up_while_he_is_held_is_gone_at_once() -> None:
    """His observations end with the connection, and what ends one passes."""

    async def play(client: Client, theirs: socket.socket, asked: list[Record]) -> None:
        client.hold(60)
        theirs.sendall(encode(Finish(1)) + encode(Status(2)) + encode(Finish(3)))
        while not asked:
            await asyncio.sleep(0.001)
        theirs.shutdown(socket.SHUT_RDWR)
        while client._transport is not None:
            await asyncio.sleep(0.001)
        assert asked == [Finish(1)]

    scene(play)


def test_what_a_held_client_asks_is_bounded() -> None:
    """Beyond that nothing is read; all of it is looked at in the end."""

    async def play(client: Client, theirs: socket.socket, asked: list[Record]) -> None:
        client.hold(0.2)
        loop = asyncio.get_running_loop()
        data = b"".join(encode(Status(number)) for number in range(200_000))
        sending = asyncio.ensure_future(loop.sock_sendall(theirs, data))
        await asyncio.sleep(0.1)
        assert not sending.done()
        await sending
        while len(asked) < 200_000:
            await asyncio.sleep(0.001)
        assert asked[-1] == Status(199_999)

    scene(play)


def test_nobody_waits_for_longer_than_ten_seconds() -> None:
    """Whatever he asked for."""
    account = Account()
    assert account.charge(100.0, 0.0) == 10
    assert account.charge(100.0, 1.0) == 10


def test_the_account_is_the_users_and_root_has_none() -> None:
    """Two connections share it; whoever sees everything is never held up."""
    admission = Admission(Access(AccessConfig(), cast(Any, None)))
    held: list[tuple[str, float]] = []

    def client(name: str, user: int, scope: Scope) -> Client:
        found = SimpleNamespace(user=user, scope=scope, hold=lambda wait_s: held.append((name, wait_s)))
        return cast(Client, found)

    admission.charge(client("one", 1000, Scope.OWN), Account.SHARE * BURST_S)
    assert held == []
    admission.charge(client("root", 0, Scope.ALL), 100.0)
    admission.charge(client("bob", 1001, Scope.OWN), 0.001)
    assert held == []
    admission.charge(client("two", 1000, Scope.OWN), 0.1)
    ((name, wait_s),) = held
    assert name == "two"
    assert wait_s == pytest.approx(0.1 / Account.SHARE, rel=0.2)


def test_answers_that_nobody_reads_are_bounded_in_bytes() -> None:
    """A few large ones are as many as many small ones."""
    large = StatusReply(1, {"text": "x" * (MAX_ANSWERS_BYTES // 3)})

    async def play(client: Client, theirs: socket.socket, asked: list[Record]) -> None:
        sent = 0
        while client._transport is not None and not client._transport.is_closing():
            client.answer(large)
            sent += 1
            await asyncio.sleep(0)
            assert client.queued_bytes <= 2 * MAX_ANSWERS_BYTES
            assert sent < 50
        assert client.queued_bytes == 0

    scene(play)


@given(st.lists(st.text(max_size=3000), max_size=20))
def test_a_command_in_a_list_is_short(command: list[str]) -> None:
    """What fits is whole."""
    found = _clipped(tuple(command))
    assert sum(map(len, found)) <= 4096
    if len(" ".join(command)) <= 4096:
        assert found == command


def test_an_observation_has_a_bounded_number_of_roots() -> None:
    """Each is looked at, and the same one once."""
    looked: list[int] = []

    def exists(pid: int) -> bool:
        looked.append(pid)
        return False

    proc: Any = SimpleNamespace(initial_namespace=lambda: True, exists=exists)
    said: list[str] = []
    client: Any = SimpleNamespace(fail=lambda request, code, message, hint: said.append(code))
    nothing = cast(Any, None)
    requests = Requests(nothing, nothing, proc, nothing, None)
    assert requests.observe(client, Observe(1, 5, ("x",), 0, None, tuple(range(6, 6 + MAX_ROOTS)))) is None
    assert (said, looked) == (["limit"], [])
    assert requests.observe(client, Observe(1, 5, ("x",), 0, None, (5,) * 4000)) is None
    assert (said, looked) == (["limit", "no_process"], [5])


def test_root_finds_room_whoever_came_first() -> None:
    """One user has half of the targets at most, however many he acts as, and all but root seven eighths."""
    nothing = cast(Any, None)
    found = Discovery(DiscoveryConfig(max_targets=16), nothing, nothing, nothing, 1)
    found._subordinates = cast(Any, SimpleNamespace(owner=lambda uid: 1000 if uid >= 100_000 else uid))

    def fill(uid: int) -> int:
        count = 0
        while found._has_room(uid + count if uid >= 100_000 else uid):
            entry = SimpleNamespace(uid=uid + count if uid >= 100_000 else uid)
            found._found[len(found._found)] = cast(Any, (entry, None))
            count += 1
        return count

    assert fill(100_000) == 8
    assert fill(1000) == 0
    assert fill(1001) == 6
    assert fill(0) == 2


def test_connections_of_a_subordinate_user_are_its_owners() -> None:
    """Otherwise a user could have as many as the whole daemon has."""

    async def connect() -> list[bool]:
        config = AccessConfig(others="own", connections_per_user=2)
        admission = Admission(Access(config, cast(Any, None)))
        admission._subordinates = cast(Any, SimpleNamespace(owner=lambda uid: 1000))
        clients = [Client(lambda _: None, lambda *_: None, lambda _: None) for _ in range(3)]
        for number, client in enumerate(clients):
            client.peer = Peer(1, 100_000 + number, 100_000)
        return [admission.admit(client) for client in clients]

    assert asyncio.run(connect()) == [True, True, False]
