"""The server's own conduct, with everything around it faked."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from whyidle_daemon.access import Peer, Scope
from whyidle_daemon.proc import Proc
from whyidle_daemon.server import Server
from whyidle_wire.records import PROTOCOL, Failure, Hello, Observe, Record, Welcome


class FakeClient:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Record] = []
        self.greeted = False
        self.name = "?"
        self.owner = None
        self.peer = Peer(1, 0, 0)
        self.scope = Scope.ALL
        self.budget = None

    def answer(self, record: Record) -> None:
        self.told.append(record)

    def fail(self, request: int, code: str, message: str, hint: str) -> None:
        self.answer(Failure(request, code, message, hint))

    def close(self) -> None: ...


class BrokenTargets:
    """Raises something nobody expected."""

    class gpus:  # noqa: N801
        """None."""

        gpus = ()

    class kernel:  # noqa: N801
        """Tracks nothing."""

        @staticmethod
        def target_of(pid: int) -> None: ...

    def start(self, *_: Any) -> None:
        raise RuntimeError("a mistake")


def test_a_mistake_in_one_request_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the daemon costs the request that met it, never the connection or the other clients."""
    server = Server(BrokenTargets(), Proc())  # type: ignore[arg-type]
    client: Any = FakeClient()
    server._on_record(client, Hello(PROTOCOL, "test"))
    with caplog.at_level(logging.ERROR):
        server._on_record(client, Observe(7, os.getppid(), ()))
    assert isinstance(client.told[0], Welcome)
    assert isinstance(client.told[1], Failure)
    assert (client.told[1].request, client.told[1].code) == (7, "internal")
    assert "a mistake" in caplog.text
