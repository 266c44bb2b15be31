"""One daemon to a socket: who comes second is told, and takes nothing from the first."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from whyidle_daemon import sockets
from whyidle_daemon.errors import StartError

GROUP = "no-such-group-at-all"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def systemds(path: Path) -> Iterator[socket.socket]:
    """A socket that somebody listens on without the lock, as systemd does before the service has begun."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


def test_what_somebody_listens_on_is_left_alone(path: Path, systemds: socket.socket) -> None:
    with pytest.raises(StartError, match="another whyidled serves"):
        sockets.bind(path, GROUP)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # the same one, still


def test_so_is_one_that_accepts_nobody_for_now(path: Path, systemds: socket.socket) -> None:
    """Its queue of connections is full; asking does not wait."""
    clients = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(str(path))
    with pytest.raises(StartError, match="another whyidled serves"):
        sockets.bind(path, GROUP)
    for client in clients:
        client.close()
    assert path.is_socket()


def test_one_left_by_a_dead_daemon_is_replaced(path: Path, systemds: socket.socket) -> None:
    systemds.close()
    listener = sockets.bind(path, GROUP)
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_who_was_activated_holds_the_lock(
    monkeypatch: pytest.MonkeyPatch, path: Path, systemds: socket.socket
) -> None:
    """So nobody else serves that file, nor does it where somebody else does."""

    def activate() -> socket.socket:
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setattr(sockets, "_LISTEN_FDS_START", os.dup(systemds.fileno()))
        listener, made = sockets.listening(path, GROUP)
        assert made is None
        return listener

    activate().close()
    for attempt in (activate, lambda: sockets.bind(path, GROUP)):
        with pytest.raises(StartError, match="another whyidled serves"):
            attempt()
    assert path.is_socket()


def test_at_the_end_only_ones_own_is_removed(path: Path) -> None:
    """systemd, started meanwhile, has put its socket in the place of ours."""
    listener, made = sockets.listening(path, GROUP)
    assert made is not None
    path.unlink()
    with listener, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        sockets.remove(path, made)
        assert path.is_socket()
    sockets.remove(path, sockets._file(path))
    assert not path.exists()
