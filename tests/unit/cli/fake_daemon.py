"""A daemon for the CLI's tests: a thread that follows a script over a real Unix socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from whyidle_wire.codec import MAX_TO_DAEMON, FrameReader, encode
from whyidle_wire.records import (
    Finish,
    Hello,
    Observe,
    Observing,
    Record,
    Report,
    Subscribe,
    Subscribed,
    Welcome,
)

R = TypeVar("R", bound=Record)

SAMPLE: dict[str, Any] = json.loads(Path(__file__).with_name("sample_report.json").read_text())
WELCOME = Welcome(1, "0.1.0", 77, SAMPLE["host"])
OBSERVATION = 7


class Wire:
    """The daemon's side of one connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(30)
        self._reader = FrameReader(MAX_TO_DAEMON)
        self._records: list[Record] = []

    def expect(self, cls: type[R]) -> R:
        """The next record, which must be of this class."""
        while not self._records:
            data = self._socket.recv(65536)
            assert data, f"the client left where {cls.__name__} was expected"
            self._records += self._reader.feed(data)
        record = self._records.pop(0)
        assert isinstance(record, cls), record
        return record

    def send(self, *records: Record) -> None:
        self.raw(b"".join(map(encode, records)))

    def raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()

    def wait_for_end(self) -> None:
        """Until the client closes."""
        while self._socket.recv(65536):
            pass

    # The usual parts of a conversation.

    def welcome(self) -> Hello:
        hello = self.expect(Hello)
        self.send(WELCOME)
        return hello

    def observing(self) -> Observe:
        observe = self.expect(Observe)
        self.send(Observing(observe.request, OBSERVATION, "2026-03-02T09:14:07Z", 1, 1))
        return observe

    def report(self, report: dict[str, Any] | None = None) -> Finish:
        finish = self.expect(Finish)
        self.send(Report(OBSERVATION, SAMPLE if report is None else report))
        return finish

    def subscribed(self) -> Subscribe:
        subscribe = self.expect(Subscribe)
        self.send(Subscribed(subscribe.request))
        return subscribe


class FakeDaemon:
    """Serves one connection with ``script``; leaving the block waits for it and raises what it raised."""

    def __init__(self, path: Path, script: Callable[[Wire], object]) -> None:
        self.path, self._script = path, script
        self.said: Any = None
        self._error: BaseException | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(30)
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        try:
            connected, _ = self._server.accept()
            with connected:
                self.said = self._script(Wire(connected))
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()
        self._server.close()
        if self._error is not None and error is None:
            raise self._error


COMMAND = [sys.executable, "-P", "-m", "whyidle_cli.main"]


def whyidle(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does; standard input is empty unless given."""
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, **options
    )
