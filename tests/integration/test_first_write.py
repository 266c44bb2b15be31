"""Names that clients give their peers: read from the first write of a connection, and nothing else."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness import Runner
from harness_cli import load, whyidle
from whyidle_daemon.greetings import decode
from whyidle_probes.events import FirstWrite

pytestmark = pytest.mark.bpf

SECRET = "s3cret"  # in whatever is not a name


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        threading.Event().wait(0.05)  # so that the client waits long enough for a slice
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def plain_port() -> Iterator[int]:
    yield from _serve(None)


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    key = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1",
         "-keyout", key, "-out", key.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key.with_suffix(".crt"), key)
    yield from _serve(context)


def _serve(context: ssl.SSLContext | None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


HTTP = """
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    for path in ("/v1/search?key=s3cret", "/v1/second?key=s3cret"):
        c.request("GET", path, headers={"Host": "search.example.com", "Authorization": "Bearer s3cret"})
        c.getresponse().read()
"""
TLS = """
    import socket, ssl
    context = ssl._create_unverified_context()
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as raw:
        with context.wrap_socket(raw, server_hostname="api.example.org") as s:
            s.sendall(b"GET / HTTP/1.1\\r\\nHost: s3cret.example\\r\\nConnection: close\\r\\n\\r\\n")
            while s.recv(4096): pass
"""
SENDS = """
    import os, socket
    request = b"GET /p?q HTTP/1.1\\r\\nHost: sent.example.net\\r\\n\\r\\n"
    ways = {
        "write": lambda s: os.write(s.fileno(), request),
        "send": lambda s: s.send(request),
        "sendmsg": lambda s: s.sendmsg([request]),
        "writev": lambda s: os.writev(s.fileno(), [request]),
    }
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
        ways[sys.argv[2]](s)
        s.recv(100)
"""


def first_writes(run: Runner, code: str, *arguments: object) -> list[FirstWrite]:
    if "sock_send_length" in run.probe.kernel.missing:
        pytest.skip("this kernel has no sock_send_length (6.3)")
    program = run(code, *map(str, arguments))
    return [e for e in run.probe.events() if isinstance(e, FirstWrite) and e.pid == program.pid]


def test_a_tls_client_names_its_peer(run_observed: Runner, tls_port: int) -> None:
    """One event per connection, the ClientHello; what is written later is not read, encrypted or not."""
    (said,) = first_writes(run_observed, TLS, tls_port)
    assert decode(said.data) == ("api.example.org", None)
    assert said.peer.remote_port == tls_port
    assert said.peer.remote[:4] == bytes([127, 0, 0, 1])


def test_an_http_client_names_its_peer(run_observed: Runner, plain_port: int) -> None:
    """Of a kept connection the first request counts; name and path leave the decoder, nothing else."""
    (said,) = first_writes(run_observed, HTTP, plain_port)
    assert decode(said.data) == ("search.example.com", "/v1/search")
    assert len(said.data) <= 512


@pytest.mark.parametrize("way", ["write", "send", "sendmsg", "writev"])
def test_every_way_to_send_is_read(run_observed: Runner, plain_port: int, way: str) -> None:
    """Whichever syscall sends it."""
    (said,) = first_writes(run_observed, SENDS, plain_port, way)
    assert decode(said.data) == ("sent.example.net", "/p")


def test_nothing_else_is_read(run_observed: Runner, plain_port: int) -> None:
    """Neither other protocols, nor a second write, nor Unix sockets and UDP, nor what a server answers."""
    said = first_writes(
        run_observed,
        """
        import socket, threading
        a, b = socket.socketpair()
        a.send(b"GET /unix HTTP/1.1\\r\\nHost: unix.example\\r\\n\\r\\n")
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        u.sendto(b"GET /udp HTTP/1.1\\r\\nHost: udp.example\\r\\n\\r\\n", ("127.0.0.1", 9))
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as s:
            s.send(b"PASS s3cret\\r\\n")
            s.send(b"GET /second HTTP/1.1\\r\\nHost: second.example\\r\\n\\r\\n")
        """,
        plain_port,
    )
    assert said == []


@pytest.mark.parametrize(("code", "host", "path"), [(HTTP, "search.example.com", "/v1/search"),
                                                    (TLS, "api.example.org", None)])  # fmt: skip
def test_the_report_has_the_name(
    tmp_path: Path, request: pytest.FixtureRequest, code: str, host: str, path: str | None
) -> None:
    """What was not looked up is called what its client called it, live and replayed; no secret is kept."""
    port = request.getfixturevalue("tls_port" if code == TLS else "plain_port")
    script = tmp_path / "client.py"
    body = code.replace("\n    ", "\n")
    script.write_text(f"import sys\nfor _ in range(20):\n{_indented(body)}\n")
    live, record = tmp_path / "live.json", tmp_path / "r.whyidle"
    done = whyidle("run", "--json", live, "--record", record, "--", sys.executable, script, str(port))
    assert done.returncode == 0, done.stderr
    report = load(live)
    peers = [f["peer"] for f in report["findings"] if f["peer"] and f["peer"]["port"] == port]
    assert peers
    assert {peer["host"] for peer in peers} == {host}
    assert {peer.get("path") for peer in peers} == {path}
    assert SECRET not in json.dumps([report["findings"], report["gaps"]])
    again = whyidle("report", record, "--json")
    assert json.loads(again.stdout)["findings"] == report["findings"]


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())
