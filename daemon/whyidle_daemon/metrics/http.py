"""A very small HTTP server: one page, a bounded number of connections, a bounded time for each.

On the daemon's own loop and without threads: a request costs a copy of a page that is at most a second old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32
MAX_HEAD: Final = 8 << 10
HEAD_S: Final = 3.0
"""For a request to be there whole. A scraper sends it as it connects: this is for two segments that are lost,
which are sent again after 1 and 2 s, or a scraper that has no CPU for that long."""
PATIENCE_S: Final = 10.0
"""For reading the answer."""
_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
                   431: "Request Header Fields Too Large", 500: "Internal Server Error"}  # fmt: skip
_TEXT: Final = "text/plain; charset=utf-8"

Page = Callable[[], bytes]


class Endpoint:
    """Serves ``page`` at ``/metrics``."""

    def __init__(self, page: Page, content_type: str) -> None:
        self.page, self.content_type = page, content_type
        self.connections: dict[_Connection, None] = {}  # in the order in which they came
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Begin; returns the port (for 0: which one it is). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=16)
        return int(self._server.sockets[0].getsockname()[1])

    def has_room(self) -> bool:
        """Whether one more may come: for that the oldest that has not asked yet is let go if need be.

        Idle connections would keep the scraper out otherwise, who asks as soon as he is connected.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            oldest = next((one for one in self.connections if not one.asked), None)
            if oldest is None:
                return False
            oldest.abort()
            self.connections.pop(oldest)
        return True

    def close(self) -> None:
        """Stop, also in the middle of an answer."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One request, one answer, the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.asked = False
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class does not derive from it
        if not self._endpoint.has_room():
            self._transport.abort()
            return
        self._endpoint.connections[self] = None
        self._give(HEAD_S)

    def _give(self, seconds: float) -> None:
        """Whoever is slower has to come again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._endpoint.connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= MAX_HEAD:
            return
        if end < 0 or end > MAX_HEAD:
            self._answer(431)
        else:
            self._request(self._head[:end].split(b"\r\n", 1)[0].split(b" "))

    def _request(self, words: list[bytes]) -> None:
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            self._answer(400)
        elif words[0] not in (b"GET", b"HEAD"):
            self._answer(405, more="Allow: GET, HEAD\r\n")
        elif words[1].partition(b"?")[0] != b"/metrics":
            self._answer(404, b"whyidle: see /metrics\n")
        else:
            try:
                body = self._endpoint.page()
            except Exception:  # a mistake of ours: the next scrape may be luckier
                log.exception("the metrics could not be made")
                self._answer(500)
            else:
                self._answer(200, body, self._endpoint.content_type, send=words[0] == b"GET")

    def _answer(
        self, status: int, body: bytes = b"", kind: str = _TEXT, *, more: str = "", send: bool = True
    ) -> None:
        assert self._transport is not None
        self.asked = True
        self._give(PATIENCE_S)
        reason = _REASONS[status]
        body = body or f"{reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"X-Content-Type-Options: nosniff\r\nConnection: close\r\n{more}\r\n"
        )
        self._transport.write(head.encode() + (body if send else b""))
        self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
