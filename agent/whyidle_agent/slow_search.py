"""A local web search that answers slowly and logs how long it held each request.

It answers `GET /search?q=WORDS` with JSON as SearxNG does, from a few bundled documents, and has a page of
each. It can also do what servers do to a client that trusts them: fail, hang, reset the connection, send
10 MB of HTML, or bytes that are no UTF-8.

The log is the truth that an observer's blocked seconds are checked against: `held_s` runs from the moment a
request has been received to the moment its response has been handed to the socket, on CLOCK_MONOTONIC.

Everything random (jitter, errors and the like) depends on the seed, the query and how often that query was
asked before, so it does not change with the order in which concurrent requests arrive.
"""

import json
import random
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TextIO
from urllib.parse import parse_qs, urlsplit

from whyidle_agent.corpus import page, search
from whyidle_agent.errors import AgentError

_IDLE_CONNECTION_S = 60.0  # a kept-alive connection that says nothing is closed, and its thread ends
_DRAIN_S = 2.0  # how long a stop waits for requests in flight to be logged
_HANG_CHECK_S = 0.2
FLOOD_BYTES = 10 << 20
_GARBAGE = b'{"query": "\xff\xfe", "results": [{"title": "\xc3\x28", "content": "\xf0\x28\x8c\xbc"}]}'


@dataclass(frozen=True)
class Behaviour:
    """How the server answers: seconds, and rates from 0 to 1."""

    latency_s: float = 0.4
    jitter_s: float = 0.0  # up to this much more, evenly distributed
    error_rate: float = 0.0  # answered with 503, after the latency
    hang_rate: float = 0.0  # never answered
    reset_rate: float = 0.0  # the connection is reset after the latency
    flood_rate: float = 0.0  # answered with FLOOD_BYTES of HTML
    garbage_rate: float = 0.0  # answered with JSON that is not UTF-8
    seed: int = 0


@dataclass(frozen=True)
class Fate:
    """What is going to happen to one request."""

    hold_s: float
    outcome: str  # ok, error, hung, reset, flood or garbage


def fate(behaviour: Behaviour, query: str, occurrence: int) -> Fate:
    """Return what happens to the `occurrence`-th request (from 0) for `query`; deterministic."""
    chance = random.Random(f"{behaviour.seed}\0{occurrence}\0{query}")  # noqa: S311 - not a secret
    hold = behaviour.latency_s + behaviour.jitter_s * chance.random()
    rates = {
        "error": behaviour.error_rate,
        "hung": behaviour.hang_rate,
        "reset": behaviour.reset_rate,
        "flood": behaviour.flood_rate,
        "garbage": behaviour.garbage_rate,
    }
    # One draw for each whatever it decides, so that one rate does not change what another one hits.
    hit = [outcome for outcome, rate in rates.items() if chance.random() < rate]
    return Fate(hold, "hung" if "hung" in hit else hit[0] if hit else "ok")


class SearchServer(ThreadingHTTPServer):
    """The server. Use it in a `with` block: it answers from entering to leaving."""

    daemon_threads = True  # a connection kept alive by a client must not keep the process alive
    request_queue_size = 128

    def __init__(self, host: str, port: int, behaviour: Behaviour, log: TextIO | None = None) -> None:
        """Bind `host` (an address, IPv4 or IPv6) and `port` (0: any free one); raises AgentError.

        `log` receives one JSON line per request.
        """
        self.behaviour = behaviour
        self.stopping = threading.Event()
        self._log = log
        self._asked: Counter[str] = Counter()
        self._active = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AgentError(
                f"cannot listen on {host} port {port}: {reason}",
                "choose another --port (0 takes any) or --host",
            ) from error

    def server_bind(self) -> None:
        """Bind without asking for the host's name, which HTTPServer does and which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Return the address to give to `whyidle-agent --search-url`."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="accept"
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self.shutdown()
        if self._thread is not None:
            self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: self._active == 0, timeout=_DRAIN_S)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what the standard library would print as a traceback."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a client that went away is its own business
            print(f"whyidle-search: internal error: {error!r}", file=sys.stderr)

    def begin(self, query: str) -> Fate:
        """Count a request in and decide what happens to it."""
        with self._changed:
            self._active += 1
            occurrence = self._asked[query]
            self._asked[query] += 1
        return fate(self.behaviour, query, occurrence)

    def end(self, record: dict[str, Any]) -> None:
        """Log a request and count it out."""
        with self._changed:
            if self._log is not None:
                self._log.write(json.dumps(record) + "\n")
                self._log.flush()
            self._active -= 1
            self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server: SearchServer
    protocol_version = "HTTP/1.1"  # connections are kept alive
    server_version = "whyidle-search"
    sys_version = ""
    timeout = _IDLE_CONNECTION_S
    # Buffered, so that headers and body are one write: the client wakes up once, and "handed to the socket"
    # is one moment.
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        received = time.monotonic()  # before anything else: the request has been read to its last byte
        address = urlsplit(self.path)
        query = " ".join(parse_qs(address.query, errors="replace").get("q", []))
        if address.path == "/health":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif address.path.startswith("/pages/"):
            self._hold(address.path, received, lambda: self._page(address.path))
        elif address.path != "/search":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "ask /search?q=..."})
        elif not query.strip():
            self._answer(HTTPStatus.BAD_REQUEST, {"error": "no query: ask /search?q=..."})
        else:
            found = {"query": query, "results": search(query, self.server.url)}
            self._hold(query, received, lambda: self._answer(HTTPStatus.OK, found))

    def _hold(self, query: str, received: float, answer: Callable[[], None]) -> None:
        """Hold a request and log for how long, then do to it what is decided."""
        decided = self.server.begin(query)
        outcome, answered = "dropped", None
        try:
            if decided.outcome == "hung":
                outcome = "hung"
                self._hang()
            elif not self.server.stopping.wait(max(0.0, received + decided.hold_s - time.monotonic())):
                misdeeds: dict[str, Callable[[], None]] = {
                    "error": lambda: self._answer(
                        HTTPStatus.SERVICE_UNAVAILABLE, {"error": "simulated failure"}
                    ),
                    "reset": self._reset,
                    "flood": self._flood,
                    "garbage": lambda: self._send(HTTPStatus.OK, "application/json", _GARBAGE),
                }
                misdeeds.get(decided.outcome, answer)()
                answered = time.monotonic()
                outcome = decided.outcome
            else:
                self.close_connection = True
        except OSError:
            self.close_connection = True  # the client went away first
        finally:
            done = time.monotonic() if answered is None else answered
            self.server.end(
                {
                    "query": query,
                    "received_at": received,
                    "answered_at": answered,  # null: never
                    "held_s": done - received,
                    "outcome": outcome,
                }
            )

    def _hang(self) -> None:
        """Hold the request until the client gives up or the server stops."""
        self.close_connection = True
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], _HANG_CHECK_S)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _reset(self) -> None:
        """Close the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _flood(self) -> None:
        line = b"<p>there is no end to this page</p>\n"
        self._send(HTTPStatus.OK, "text/html", line * (FLOOD_BYTES // len(line) + 1))

    def _page(self, path: str) -> None:
        document = page(path)
        if document is None:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such page"})
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", document.html.encode())

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the request log is the log."""
