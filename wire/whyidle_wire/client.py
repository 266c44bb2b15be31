"""A small blocking client of the daemon's socket."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from whyidle_wire.codec import MAX_TO_CLIENT, MAX_TO_DAEMON, FrameReader, encode
from whyidle_wire.errors import BadFrame, Disconnected, Refused, WireError
from whyidle_wire.records import PROTOCOL, Failure, Hello, Record, Unknown, Welcome

DEFAULT_SOCKET: Final = Path("/run/whyidle/whyidle.sock")

_SEND_TIMEOUT_S: Final = 10.0
_CHUNK: Final = 256 * 1024
_RETRY_S: Final = 0.01


class Client:
    """One connection. Not for use by several threads at once.

    All methods raise :class:`~whyidle_wire.errors.WireError` subclasses: ``Disconnected`` when the daemon is
    gone, ``BadFrame`` or ``FrameTooLarge`` when what it sends is not this protocol.
    """

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected stream socket; :meth:`close` closes it."""
        self._socket = connected
        self._socket.settimeout(_SEND_TIMEOUT_S)
        self._reader = FrameReader(MAX_TO_CLIENT)
        self._ready: deque[Record] = deque()
        self._error: WireError | None = None

    @classmethod
    def connect(cls, path: Path = DEFAULT_SOCKET, timeout_s: float = 5.0) -> Self:
        """Connect to a daemon's socket file; raises OSError when nobody answers there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout_s
        try:
            sock.settimeout(timeout_s)
            while True:
                try:
                    sock.connect(str(path))
                    break
                except BlockingIOError:  # its queue is full: somebody is there, and busy
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_RETRY_S)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def fileno(self) -> int:
        """For ``select``. Readable means: call :meth:`receive` with timeout 0 until it returns None."""
        return self._socket.fileno()

    def handshake(self, client: str, timeout_s: float = 10.0) -> Welcome:
        """Say Hello, wait for Welcome.

        Raises :class:`Refused` with the daemon's Failure (another protocol version, a host that cannot).
        """
        try:
            self.send(Hello(PROTOCOL, client))
        except Disconnected:
            if not self._ready:  # a refusal came before the daemon hung up
                raise
        answer = self.receive(timeout_s)
        if isinstance(answer, Welcome):
            if answer.protocol != PROTOCOL:
                raise BadFrame(f"protocol {answer.protocol} spoken by the daemon, {PROTOCOL} by this client")
            return answer
        if isinstance(answer, Failure):
            raise Refused(answer)
        if answer is None:
            raise Disconnected(f"no answer within {timeout_s:g} s")
        raise BadFrame(f"{type(answer).__name__} in place of a welcome")

    def send(self, record: Record) -> None:
        """Send one record; raises Disconnected also when the daemon has not read for 10 s."""
        try:
            self._socket.sendall(encode(record, MAX_TO_DAEMON))
        except OSError as error:
            # What the daemon said before it closed (a Failure, often) is worth more than "broken pipe".
            if not self._ready:
                self._take_quietly()
            raise Disconnected(f"cannot send to the daemon ({error.strerror or error})") from None

    def receive(self, timeout_s: float | None) -> Record | None:
        """The next record, or None if none comes within ``timeout_s`` seconds (None: wait for ever).

        Records of unknown kinds, from a newer daemon, are skipped. Records that arrived before an error are
        returned before it is raised.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while not self._ready:
            if self._error is not None:
                raise self._error
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poller.poll(None if left is None else left * 1000):
                return None
            self._take()
        return self._ready.popleft()

    def close(self) -> None:
        """Close the connection; the daemon ends this client's observations."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except OSError as error:
            self._error = Disconnected(f"connection to the daemon lost ({error.strerror or error})")
            return
        if not data:
            cut = " in the middle of a message" if self._reader.pending else ""
            self._error = Disconnected(f"the daemon closed the connection{cut}")
            return
        try:
            records = self._reader.feed(data)
        except WireError as error:
            records, self._error = error.records, error
        self._ready.extend(record for record in records if not isinstance(record, Unknown))

    def _take_quietly(self) -> None:
        while self._error is None and select.select([self._socket], [], [], 0)[0]:
            self._take()
