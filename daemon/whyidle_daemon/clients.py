"""One connected client: frames in, frames out, and never more memory than its queue.

A client that reads too slowly loses the oldest streamed records and is told how many; answers are never
dropped, but a client that asks on and on and reads none of them is. Nothing here waits for a client, so a
stuck one costs the daemon its queue and no time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from whyidle_daemon.access import NOBODY, Budget, Peer, Scope
from whyidle_daemon.recording.output import Owner
from whyidle_wire.codec import MAX_TO_DAEMON, FrameReader, encode
from whyidle_wire.errors import WireError
from whyidle_wire.records import Dropped, Failure, FailureCode, Finish, Record

log = logging.getLogger(__name__)

QUEUE_RECORDS = 1024
QUEUE_BYTES = 4 << 20
MAX_ANSWERS = 256
MAX_ASKED = 64
MAX_ANSWERS_BYTES = 4 << 20
_SOCKET_BYTES = 256 << 10
_SO_PEERGROUPS = 59
_MAX_GROUPS = 256  # what Python's getsockopt has room for


class Client(asyncio.Protocol):
    """A connection. ``on_record`` gets each record, ``on_close`` is called once at the end."""

    def __init__(
        self,
        on_open: Callable[[Client], None],
        on_record: Callable[[Client, Record], None],
        on_close: Callable[[Client], None],
    ) -> None:
        self._on_open, self._on_record, self._on_close = on_open, on_record, on_close
        self._reader = FrameReader(MAX_TO_DAEMON)
        self._asked: deque[Record] = deque()  # what is not looked at yet: at most what came at once
        self._wrong = ""
        self._held = self._deaf = False
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._answers: deque[bytes] = deque()
        self._answers_bytes = 0
        self._stream: deque[bytes] = deque()
        self._stream_bytes = 0
        self._dropped = 0
        self.dropped_total = 0
        self.name = "?"
        self.greeted = False
        self.peer = NOBODY
        self.user = NOBODY.uid  # whose limits count: of a subordinate user ID, its owner's
        self.scope = Scope.NONE
        self.budget: Budget | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class does not derive from it
        self._transport.set_write_buffer_limits(high=_SOCKET_BYTES)
        self.peer = _peer(self._transport.get_extra_info("socket"))
        self._on_open(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._asked.extend(self._reader.feed(data))
        except WireError as error:
            self._asked.extend(error.records)
            self._wrong = str(error)
        self._look()
        if len(self._asked) > MAX_ASKED and not self._deaf and self._transport is not None:
            self._deaf = True  # only then: who hangs up is not noticed either
            self._transport.pause_reading()

    def hold(self, seconds: float) -> None:
        """Look at nothing that the client asks until then, but at what ends something."""
        if not self._held and self._transport is not None:
            self._held = True
            asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._held = False
        self._look()
        if self._deaf and len(self._asked) <= MAX_ASKED and self._transport is not None:
            self._deaf = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _look(self) -> None:
        while self._asked and (not self._held or isinstance(self._asked[0], Finish)):
            if self._transport is None or self._transport.is_closing():
                return
            self._on_record(self, self._asked.popleft())
        if self._wrong and not self._held:
            self.fail(
                0, FailureCode.BAD_REQUEST, self._wrong, "speak the protocol that whyidle schema prints"
            )
            self.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def answer(self, record: Record) -> None:
        """Send something that the client asked for: it is never dropped."""
        frame = encode(record)
        self._answers.append(frame)
        self._answers_bytes += len(frame)
        self._flush()
        if len(self._answers) > MAX_ANSWERS or (
            len(self._answers) > 1 and self._answers_bytes > MAX_ANSWERS_BYTES
        ):
            log.warning("client %r of user %d reads none of its answers: dropped", self.name, self.peer.uid)
            self.abort()

    def fail(self, request: int, code: str, message: str, hint: str) -> None:
        self.answer(Failure(request, code, message, hint))

    def stream(self, record: Record) -> None:
        """Send something that may be dropped when the client does not keep up."""
        frame = encode(record)
        self._stream.append(frame)
        self._stream_bytes += len(frame)
        while len(self._stream) > QUEUE_RECORDS or self._stream_bytes > QUEUE_BYTES:
            self._stream_bytes -= len(self._stream.popleft())
            self._dropped += 1
            self.dropped_total += 1
        self._flush()

    @property
    def owner(self) -> Owner:
        """The user and group of the process that connected."""
        return Owner(self.peer.uid, self.peer.gid)

    def close(self) -> None:
        """Close after what is being sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, whatever it has not read yet."""
        self._answers.clear()
        self._stream.clear()
        self._answers_bytes = self._stream_bytes = 0
        if self._transport is not None:
            self._transport.abort()

    @property
    def queued_bytes(self) -> int:
        """Memory that this client holds in the daemon."""
        return self._stream_bytes + self._answers_bytes

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._answers and not self._paused:
            answer = self._answers.popleft()
            self._answers_bytes -= len(answer)
            transport.write(answer)
        if self._dropped and not self._paused and self._stream:
            transport.write(encode(Dropped(self._dropped)))
            self._dropped = 0
        while self._stream and not self._paused:
            frame = self._stream.popleft()
            self._stream_bytes -= len(frame)
            transport.write(frame)


def _peer(connected: socket.socket) -> Peer:
    """Who connected, as the kernel noted it then: nothing that the client says."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3I", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:  # a socket pair has none
        raw = b""
    return Peer(pid, uid, gid, struct.unpack(f"{len(raw) // 4}I", raw))
