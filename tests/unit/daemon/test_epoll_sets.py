"""Members of epoll sets and the connections behind them: of this process, and of whatever a file says."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyidle_daemon import epoll_sets
from whyidle_daemon.epoll_sets import EpollSets
from whyidle_daemon.proc import Proc
from whyidle_daemon.sock_diag import Connection, decoded, listed, own_connections
from whyidle_daemon.states import peer_address

SECOND = 1_000_000_000


class Clock:
    """Time that passes when it is told to, and a little with each look."""

    def __init__(self) -> None:
        self.ns = SECOND

    def __call__(self) -> int:
        self.ns += 1_000_000
        return self.ns


def pair(family: int, address: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A listener, a client and the server's end of it."""
    listener = socket.create_server((address, 0), family=family)
    client = socket.create_connection(listener.getsockname()[:2])
    return listener, client, listener.accept()[0]


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, ...]]:
    try:
        found = pair(*request.param)
    except OSError:
        pytest.skip("no IPv6 here")
    yield found
    for each in found:
        each.close()


def test_the_peers_of_a_set(sockets: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's and a server's end are told apart, by sock_diag and by /proc alike; pipes are no members."""
    listener, client, accepted = sockets
    reader, writer = os.pipe()
    by_both = []
    with select.epoll() as epoll, socket.socket(socket.AF_UNIX) as other:
        for each in (listener, client, accepted, reader):
            epoll.register(each, select.EPOLLIN)
        epoll.register(other, 0)
        for refused in (False, True):
            if refused:
                monkeypatch.setattr(epoll_sets, "own_connections", _refused)
            found = EpollSets(Proc(), Clock()).members(os.getpid(), epoll.fileno())
            by_both.append(found)
            assert set(found) == {listener.fileno(), client.fileno(), accepted.fileno(), other.fileno()}
            assert found[listener.fileno()].peer is found[other.fileno()].peer is None
            to = found[client.fileno()].peer
            assert to is not None
            assert (peer_address(to), to.remote_port) == listener.getsockname()[:2]
            assert to.local_port == client.getsockname()[1]
            assert not found[client.fileno()].inbound
            back = found[accepted.fileno()]
            assert back.inbound
            assert back.peer is not None
            assert back.peer.remote_port == client.getsockname()[1]
    os.close(reader)
    os.close(writer)
    assert by_both[0] == by_both[1]


def _refused() -> Iterator[Connection]:
    raise PermissionError
    yield


def test_tables_are_read_for_new_connections_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again at once: what is new then is known later, and says so."""
    reads = []

    def counted() -> Iterator[Connection]:
        reads.append(1)
        yield from own_connections()

    monkeypatch.setattr(epoll_sets, "own_connections", counted)
    clock = Clock()
    sets = EpollSets(Proc(), clock)
    first, second = pair(socket.AF_INET, "127.0.0.1"), pair(socket.AF_INET, "127.0.0.1")
    with select.epoll() as epoll:
        epoll.register(first[1], select.EPOLLIN)
        for _ in range(3):
            assert sets.members(os.getpid(), epoll.fileno())[first[1].fileno()].peer
        assert len(reads) == 1
        epoll.register(second[1], select.EPOLLIN)
        late = sets.members(os.getpid(), epoll.fileno())[second[1].fileno()]
        assert (late.peer, late.late, len(reads)) == (None, True, 1)
        clock.ns += SECOND
        known = sets.members(os.getpid(), epoll.fileno())[second[1].fileno()]
        assert (known.peer is not None, known.late, len(reads)) == (True, False, 2)
    for each in (*first, *second):
        each.close()


def test_a_set_that_stays_is_not_parsed_again() -> None:
    """While all of its text is the same; a member more or less, or some seconds, and it is read anew."""
    clock = Clock()
    sets = EpollSets(Proc(), clock)
    first, second = pair(socket.AF_INET, "127.0.0.1"), pair(socket.AF_INET, "127.0.0.1")
    with select.epoll() as epoll:
        epoll.register(first[1], select.EPOLLIN)
        one = sets.members(os.getpid(), epoll.fileno())
        assert sets.members(os.getpid(), epoll.fileno()) is one
        clock.ns += 60 * SECOND
        again = sets.members(os.getpid(), epoll.fileno())
        assert (again is one, again == one) == (False, True)
        epoll.register(second[1], select.EPOLLIN)
        assert set(sets.members(os.getpid(), epoll.fileno())) == {first[1].fileno(), second[1].fileno()}
        epoll.unregister(first[1])
        assert set(sets.members(os.getpid(), epoll.fileno())) == {second[1].fileno()}
    for each in (*first, *second):
        each.close()


def test_what_is_no_set() -> None:
    """Another descriptor, a closed one and a process that is gone have no members."""
    sets = EpollSets(Proc(), Clock())
    with socket.socket() as plain:
        number = plain.fileno()
        assert sets.members(os.getpid(), number) == {}
    assert sets.members(os.getpid(), number) == {}
    assert sets.members(1 << 22, 3) == {}


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"tfd: ", b"7", b" events: 19 ", b"ino:", b"sdev:", b"\n", b"ff", b" "])))
def test_any_text_as_a_set(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """Whatever is in the file, an answer comes."""
    folder = tmp_path_factory.mktemp("proc") / "1" / "fdinfo"
    folder.mkdir(parents=True)
    (folder / "3").write_bytes(b"".join(parts))
    EpollSets(Proc(folder.parent.parent), Clock()).members(1, 3)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_an_answer_of_the_kernel(data: bytes) -> None:
    """They end, and every connection in them has two addresses of 16 bytes."""
    with suppress(OSError):
        for _, peer in decoded(data)[0]:
            assert len(peer.local) == len(peer.remote) == 16


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 1 << 32), st.binary(max_size=100))
def test_an_answer_that_lies_about_its_length(cut: int, length: int, rest: bytes) -> None:
    """A message is as long as it is, whatever it says."""
    message = struct.pack("=IHHII", length & 0xFFFFFFFF, 20, 0, 1, 0) + bytes([2, 1]) + rest
    with suppress(OSError):
        decoded(message[:cut])


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_a_table(data: bytes) -> None:
    """Lines that are none are skipped."""
    for _, peer in listed(data):
        assert 0 <= peer.local_port < 65536


def test_a_line_of_the_table() -> None:
    """IPv4, and IPv6 in four words."""
    ends = b"0100007F:9431 0A00000A:01BB"
    v4 = b"   0: " + ends + b" 01 00000000:00000000 00:00000000 00000000     0        0 74100 1 0\n"
    v6 = v4.replace(b"0100007F", b"00000000000000000000000001000000").replace(
        b"0A00000A", b"B80D0120000000000000000001000000"
    )
    found = list(listed(b"  sl  local_address\n" + v4 + v6))
    assert [(i, peer_address(p), p.local_port, p.remote_port, p.tcp_state) for i, p in found] == [
        (74100, "10.0.0.10", 0x9431, 443, 1),
        (74100, "2001:db8::1", 0x9431, 443, 1),
    ]
