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
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from whyidle_daemon.access import NOBODY, Budget, Peer, Scope
from whyidle_daemon.recording.output import Owner
from whyidle_wire.codec import MAX_TO_DAEMON, FrameReader, encode
from whyidle_wire.errors import WireError
from whyidle_wire.kinds import KIND_OF, TO_DAEMON
from whyidle_wire.records import Dropped, Failure, FailureCode, Finish, Hello, Record

log = logging.getLogger(__name__)

QUEUE_RECORDS = 1024
QUEUE_BYTES = 4 << 20
MAX_ANSWERS = 256
MAX_KEPT_BYTES = MAX_TO_DAEMON + 4  # of a client on hold: one message of any length
CLOSE_S = 10.0
MAX_ANSWERS_BYTES = 4 << 20
_SOCKET_BYTES = 256 << 10
_SO_PEERGROUPS = 59
_MAX_GROUPS = 256  # what Python's getsockopt has room for
_FINISH, _HELLO = KIND_OF[Finish], KIND_OF[Hello]
_CHEAP_BYTES = 256  # so long a record is decoded for a client on hold, too


def _free(client: Client, seconds: float) -> None: ...


class Client(asyncio.Protocol):
    """A connection. ``on_record`` gets each record, ``on_close`` is called once at the end.

    ``on_cost`` is told the CPU time that each took, in seconds, its decoding included.
    """

    def __init__(
        self,
        on_open: Callable[[Client], None],
        on_record: Callable[[Client, Record], None],
        on_close: Callable[[Client], None],
        on_cost: Callable[[Client, float], None] = _free,
    ) -> None:
        self._on_open, self._on_record, self._on_close = on_open, on_record, on_close
        self._on_cost = on_cost
        self._reader = FrameReader(MAX_TO_DAEMON, TO_DAEMON)
        self._hold: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._deaf = False
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
        began = time.thread_time()
        self._on_open(self)
        self._on_cost(self, time.thread_time() - began)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader.forget()
        for timer in (self._hold, self._end):  # they would hold a client that has gone
            if timer is not None:
                timer.cancel()
        self._on_close(self)

    def data_received(self, data: bytes) -> None:
        began = time.thread_time()
        self._reader.keep(data)
        self._look(began)
        if self._reader.pending > MAX_KEPT_BYTES and not self._deaf and self._transport is not None:
            self._deaf = True  # only then: who hangs up is not noticed either
            self._transport.pause_reading()

    def hold(self, seconds: float) -> None:
        """Look at nothing that the client asks until then, but at what ends something, and a greeting."""
        if self._hold is None and self._transport is not None:
            self._hold = asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._hold = None
        self._look(time.thread_time())
        if self._deaf and self._reader.pending <= MAX_KEPT_BYTES and self._transport is not None:
            self._deaf = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _look(self, began: float) -> None:
        more = True
        while more:
            more = (self._hold is None or self._passes()) and self._take()
            now = time.thread_time()
            self._on_cost(self, now - began)  # which may put it on hold
            began = now

    def _passes(self) -> bool:
        """Whether what comes next is heard of a client on hold."""
        kind, size = self._reader.coming
        return size <= _CHEAP_BYTES and (kind == _FINISH or (kind == _HELLO and not self.greeted))

    def _take(self) -> bool:
        if self._transport is None or self._transport.is_closing():
            self._reader.forget()
            return False
        try:
            record = self._reader.next()
        except WireError as error:
            hint = "speak the protocol that whyidle schema prints"
            self.fail(0, FailureCode.BAD_REQUEST, str(error), hint)
            self.close()
            return False
        if record is not None:
            self._on_record(self, record)
        return record is not None

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
        """Close after what is being sent, or soon: who does not read it is not waited for."""
        if self._transport is not None:
            self._transport.close()
            if self._end is None:
                self._end = asyncio.get_running_loop().call_later(CLOSE_S, self.abort)

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
        return self._reader.pending + self._stream_bytes + self._answers_bytes

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
