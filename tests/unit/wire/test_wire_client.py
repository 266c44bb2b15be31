"""The blocking client, against the other end of a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from whyidle_wire.client import Client
from whyidle_wire.codec import MAX_TO_CLIENT, MAX_TO_DAEMON, FrameReader, encode
from whyidle_wire.errors import BadFrame, Disconnected, FrameTooLarge, Refused
from whyidle_wire.records import Dropped, Failure, Hello, Record, Status, Subscribed, Welcome

WELCOME = Welcome(1, "0.1.0", 7, {"kernel": "6.1", "cpus": 2, "gpus": []})


@pytest.fixture
def ends() -> Iterator[tuple[Client, socket.socket]]:
    ours, theirs = socket.socketpair()
    with Client(ours) as client, theirs:
        theirs.settimeout(30)
        yield client, theirs


def sent_to(daemon: socket.socket) -> list[Record]:
    return FrameReader(MAX_TO_DAEMON).feed(daemon.recv(65536))


def test_handshake(ends: tuple[Client, socket.socket]) -> None:
    """The client says Hello first and returns the daemon's Welcome."""
    client, daemon = ends
    daemon.sendall(encode(WELCOME))
    assert client.handshake("test 1") == WELCOME
    assert sent_to(daemon) == [Hello(1, "test 1")]


def test_handshake_refused(ends: tuple[Client, socket.socket]) -> None:
    """A Failure in answer to Hello is handed over whole."""
    client, daemon = ends
    failure = Failure(0, "protocol", "protocol 1 is not spoken here", "upgrade the CLI")
    daemon.sendall(encode(failure))
    with pytest.raises(Refused, match="not spoken here") as caught:
        client.handshake("test")
    assert caught.value.failure == failure


def test_handshake_refused_before_it_is_said(ends: tuple[Client, socket.socket]) -> None:
    """A daemon that hangs up at once has said why: that is told, and not that the pipe is broken."""
    client, daemon = ends
    daemon.sendall(encode(Failure(0, "permission", "no", "ask")))
    daemon.close()
    with pytest.raises(Refused) as caught:
        client.handshake("whyidle 1")
    assert caught.value.failure.message == "no"


def test_handshake_with_another_protocol(ends: tuple[Client, socket.socket]) -> None:
    """A daemon that welcomes with another protocol version is refused, with both versions named."""
    client, daemon = ends
    daemon.sendall(encode(Welcome(2, "9", 7, {})))
    with pytest.raises(BadFrame, match="protocol 2 spoken by the daemon, 1"):
        client.handshake("test")


def test_handshake_with_something_else(ends: tuple[Client, socket.socket]) -> None:
    """A daemon that answers Hello with another record is refused."""
    client, daemon = ends
    daemon.sendall(encode(Subscribed(1)))
    with pytest.raises(BadFrame, match="Subscribed in place of a welcome"):
        client.handshake("test")


def test_handshake_without_answer(ends: tuple[Client, socket.socket]) -> None:
    """A daemon that says nothing does not hang the client."""
    client, _ = ends
    with pytest.raises(Disconnected, match="no answer within 0 s"):
        client.handshake("test", timeout_s=0)


def test_receive_timeout(ends: tuple[Client, socket.socket]) -> None:
    """None tells that nothing came in time; what comes later is still received."""
    client, daemon = ends
    assert client.receive(0) is None
    daemon.sendall(encode(Dropped(1))[:3])
    assert client.receive(0.01) is None
    daemon.sendall(encode(Dropped(1))[3:])
    assert client.receive(30) == Dropped(1)


def test_several_records_in_one_read(ends: tuple[Client, socket.socket]) -> None:
    """Records that arrive together come out one by one, then None."""
    client, daemon = ends
    daemon.sendall(encode(Dropped(1)) + encode(Dropped(2)))
    assert [client.receive(30), client.receive(0), client.receive(0)] == [Dropped(1), Dropped(2), None]


def test_unknown_kinds_are_skipped(ends: tuple[Client, socket.socket]) -> None:
    """A record of a newer daemon is not shown to the client's code."""
    client, daemon = ends
    payload = msgpack.packb([4000, "new"])
    assert payload is not None
    daemon.sendall(len(payload).to_bytes(4, "big") + payload + encode(Dropped(2)))
    assert client.receive(30) == Dropped(2)


def test_end_of_stream(ends: tuple[Client, socket.socket]) -> None:
    """What was sent before the end is received, then Disconnected is raised, every time."""
    client, daemon = ends
    daemon.sendall(encode(Dropped(1)))
    daemon.close()
    assert client.receive(30) == Dropped(1)
    for _ in range(2):
        with pytest.raises(Disconnected, match=r"closed the connection$"):
            client.receive(30)


def test_end_within_a_message(ends: tuple[Client, socket.socket]) -> None:
    """A message that was cut off by the daemon's end is told apart."""
    client, daemon = ends
    daemon.sendall(encode(Dropped(1))[:-1])
    daemon.close()
    with pytest.raises(Disconnected, match="in the middle of a message"):
        client.receive(30)


def test_send_to_a_closed_daemon(ends: tuple[Client, socket.socket]) -> None:
    """Sending to a daemon that is gone is Disconnected, and its last words can still be received."""
    client, daemon = ends
    daemon.sendall(encode(Failure(0, "internal", "out of luck")))
    daemon.close()
    with pytest.raises(Disconnected, match="cannot send"):
        client.send(Status(1))
    assert client.receive(0) == Failure(0, "internal", "out of luck")


def test_garbage_after_a_record(ends: tuple[Client, socket.socket]) -> None:
    """A record that came before garbage is received first; then the garbage is an error."""
    client, daemon = ends
    daemon.sendall(encode(Dropped(1)) + b"\x00\x00\x00\x01\xc1")
    assert client.receive(30) == Dropped(1)
    with pytest.raises(BadFrame):
        client.receive(30)


def test_oversized_frame(ends: tuple[Client, socket.socket]) -> None:
    """A daemon that announces more than the limit is refused at the announcement."""
    client, daemon = ends
    daemon.sendall((MAX_TO_CLIENT + 1).to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge):
        client.receive(30)


def test_oversized_record_is_not_sent(ends: tuple[Client, socket.socket]) -> None:
    """The client never sends what the daemon would refuse."""
    client, _ = ends
    with pytest.raises(FrameTooLarge):
        client.send(Hello(1, "x" * MAX_TO_DAEMON))


def test_connect(tmp_path: Path) -> None:
    """A socket file that is listened on connects; a dead one and a missing one raise OSError."""
    path = tmp_path / "s.sock"
    with pytest.raises(FileNotFoundError):
        Client.connect(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with Client.connect(path) as client:
            peer, _ = server.accept()
            with peer:
                peer.sendall(encode(WELCOME))
                assert client.handshake("test") == WELCOME
    with pytest.raises(ConnectionRefusedError):
        Client.connect(path)
