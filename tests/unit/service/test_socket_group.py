"""Whose the daemon's socket is, when systemd made it and the configuration names another group."""

from __future__ import annotations

import grp
import os
import socket
from pathlib import Path

import pytest

from whyidle_daemon import sockets

OTHER = next(group for group in grp.getgrall() if group.gr_gid != os.getegid())
OWN = grp.getgrgid(os.getegid())


def test_a_group_that_cannot_connect_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may not give files away; with the socket opened to everybody nobody is kept out."""

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.chown", refused)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        sockets.open_to(listener, False, OWN.gr_name)
        sockets.open_to(listener, False, "no-such-group-at-all")
        sockets.open_to(listener, True, OTHER.gr_name)
        assert not caplog.text
        sockets.open_to(listener, False, OTHER.gr_name)
        assert f"SocketGroup={OTHER.gr_name}" in caplog.text
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_who_may_hands_the_socket_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A daemon on a socket of its own follows a new configuration."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        sockets.open_to(listener, False, OTHER.gr_name)
        assert (tmp_path / "s").stat().st_gid == OTHER.gr_gid
    assert not caplog.text
