"""What the daemon's libraries get in place of OpenSSL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
from whyidle_daemon import left_out
left_out.keep_out()
import asyncio, hashlib, ssl, urllib.request, uvloop
from whyidle_daemon.metrics import exporter
print(hashlib.sha256(b"").hexdigest()[:8], issubclass(ssl.SSLWantReadError, OSError), ssl.HAS_SNI)
print(hasattr(ssl, "__path__"))
async def talk():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read())
uvloop.run(talk())
maps = open("/proc/self/maps").read()
print("libcrypto" in maps, "libssl" in maps)
"""


def test_everything_that_the_daemon_imports_does_without() -> None:
    """Digests by Python's own code, connections as ever, and no OpenSSL in memory."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["e3b0c442 True 0", "False", "b''", "False False", ""]
    assert done.stderr == ""


def test_the_entry_point_keeps_it_out_first() -> None:
    """Nothing that whyidled imports before may import ssl by itself."""
    code = "import sys, whyidle_daemon.start; print('ssl' in sys.modules, 'uvloop' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
    assert "whyidle_daemon.start:main" in Path("pyproject.toml").read_text()


def test_metrics_come_without_web_servers() -> None:
    """Nothing of them is in memory, the page is made all the same, and who imports them later gets them."""
    code = """
import sys
from whyidle_daemon import left_out
left_out.keep_out()
import whyidle_daemon.main
with left_out.servers():
    from whyidle_daemon.metrics import exposition
print([name for name in ("http.server", "email.message", "wsgiref", "urllib.request") if name in sys.modules])
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry
class One:
    def collect(self):
        yield CounterMetricFamily("x", "what", value=1)
registry = CollectorRegistry()
registry.register(One())
print(generate_latest(registry).decode().splitlines()[-1])
import http.server, urllib.request
print(http.server.HTTPServer.__mro__[1].__name__, urllib.request.urlopen.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "x_total 1.0", "TCPServer urlopen"]
