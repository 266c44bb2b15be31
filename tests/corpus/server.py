"""The other end of the corpus: answers after a set time, or never, or rudely. Runs unobserved.

``python server.py PORTS_FILE CERT KEY`` writes its ports as JSON and serves until it is killed:

- ``http``, ``other``, ``http6``, ``tls``: ``/hold/MS`` answers after MS milliseconds, ``/drip/MS/N`` sends N
  pieces, MS apart, ``/hang`` never answers, ``/reset/MS`` resets the connection, ``/backlog/MS`` fills the
  queue of port ``backlog`` for that long, ``/drive/PORT/N/MS`` starts a client that asks PORT N times over
  one connection;
- ``echo``: answers each byte after half a millisecond;
- ``refused``: bound, but nobody listens;
- ``dns``: UDP 53 on 127.0.0.99; ``holdMS.corpus.test`` is answered with 127.0.0.1 after MS milliseconds.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
import socket
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DNS_ADDRESS = "127.0.0.99"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        what, *numbers = self.path.split("?")[0].strip("/").split("/")
        getattr(self, f"_{what}")(*map(int, numbers))

    def _answer(self, body: bytes = b"ok") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hold(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)
        self._answer()

    def _drip(self, milliseconds: int, pieces: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(pieces))
        self.end_headers()
        for _ in range(pieces):
            self.wfile.flush()
            time.sleep(milliseconds / 1000)
            self.wfile.write(b".")

    def _hang(self) -> None:
        select.select([self.connection], [], [], 60)
        self.close_connection = True

    def _reset(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _backlog(self, milliseconds: int) -> None:
        fill(milliseconds / 1000)
        self._answer()

    def _drive(self, port: int, number: int, milliseconds: int) -> None:
        threading.Thread(target=drive, args=(port, number, milliseconds / 1000), daemon=True).start()
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


class Server(ThreadingHTTPServer):
    """IPv4 or IPv6."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, context: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: object) -> None:
        """A client that goes away is none of our business."""


backlog = socket.create_server(("127.0.0.1", 0), backlog=0)


def fill(seconds: float) -> None:
    """Fill the queue of ``backlog``, so that the next connection waits for its second SYN (1 s)."""
    fillers = []
    while True:
        filler = socket.socket()
        filler.setblocking(False)
        fillers.append(filler)
        with contextlib.suppress(BlockingIOError):
            filler.connect(backlog.getsockname())
        if not select.select([], [filler], [], 0.05)[1]:
            break

    def free() -> None:
        time.sleep(seconds)
        for filler in fillers:
            filler.close()
        backlog.settimeout(3)
        with contextlib.suppress(TimeoutError):
            while True:
                backlog.accept()[0].close()

    threading.Thread(target=free, daemon=True).start()


def drive(port: int, number: int, pause: float) -> None:
    """A client that thinks between its requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(number):
        time.sleep(pause)
        connection.request("GET", "/")
        connection.getresponse().read()
    connection.close()


def echo(listener: socket.socket) -> None:
    """Answer bytes, each after half a millisecond."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(1):
            time.sleep(0.0005)
            connection.sendall(data)


def names(server: socket.socket) -> None:
    """A name server for ``holdMS.corpus.test``: A records only."""
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        asked = struct.unpack("!H", query[at + 1 : at + 3])[0]
        answers = asked == 1
        reply = query[:2] + struct.pack("!HHHHH", 0x8180, 1, int(answers), 0, 0) + query[12 : at + 5]
        if answers:
            reply += struct.pack("!HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton("127.0.0.1")
        found = re.match(r"hold(\d+)", labels[0])
        delay = int(found[1]) / 1000 if found else 0.0
        threading.Timer(delay, server.sendto, (reply, client)).start()


def main(ports_file: str, cert: str, key: str) -> None:
    """Serve for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    servers = {
        "http": Server("127.0.0.1"),
        "other": Server("127.0.0.1"),
        "tls": Server("127.0.0.1", context),
    }
    with contextlib.suppress(OSError):
        servers["http6"] = Server("::1")
    ports = {name: server.server_address[1] for name, server in servers.items()}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))
    ports |= {
        "echo": listener.getsockname()[1],
        "refused": refused.getsockname()[1],
        "backlog": backlog.getsockname()[1],
    }
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        resolver.bind((DNS_ADDRESS, 53))
        ports["dns"] = 53
        threading.Thread(target=names, args=(resolver,), daemon=True).start()
    half = Path(ports_file + ".half")
    half.write_text(json.dumps(ports))
    half.replace(ports_file)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
