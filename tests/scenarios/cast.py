"""What the processes of a scenario do: ``cast.py ROLE ARGUMENTS``. Each knows how long it waited for what.

At its end a role appends ``{role, pid, waits: {function: seconds}}`` to ``$WHYIDLE_SCENARIO/truth.jsonl``.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["WHYIDLE_SCENARIO"])
SEARCH = os.environ["WHYIDLE_SEARCH"]
LOOPS = 4
waits: dict[str, float] = {}


def timed(function):
    def call(*arguments):
        began = time.monotonic()
        try:
            return function(*arguments)
        finally:
            waits[function.__name__] = waits.get(function.__name__, 0.0) + time.monotonic() - began

    return call


# --- the model -----------------------------------------------------------------------------------------


def load_model():
    from llama_cpp import Llama  # noqa: PLC0415 (most roles have no model, and it takes a second)

    from whyidle_agent.model_file import generated_model  # noqa: PLC0415

    return Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)


def generate(model, tokens):
    model.reset()
    for number, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
        if number == tokens:
            break


def serve():
    """A model behind HTTP, one thread for each connection, as llama-server and vLLM look from outside."""
    model, lock = load_model(), threading.Lock()
    generate(model, 3)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            tokens = int(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                generate(model, tokens)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    announce("server", server.server_address[1])
    server.serve_forever()


def balance():
    """A load balancer: passes bytes on between its callers and the server."""
    target = port_of("server")
    listener = socket.create_server(("127.0.0.1", 0))
    announce("balancer", listener.getsockname()[1])

    def pump(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    while True:
        client, _ = listener.accept()
        backend = socket.create_connection(("127.0.0.1", target))
        threading.Thread(target=pump, args=(client, backend), daemon=True).start()
        threading.Thread(target=pump, args=(backend, client), daemon=True).start()


def announce(name, port):
    half = FOLDER / f"{name}.half"
    half.write_text(str(port))
    half.rename(FOLDER / name)


def port_of(name):
    while not (FOLDER / name).exists():
        time.sleep(0.01)
    return int((FOLDER / name).read_text())


# --- the agents ----------------------------------------------------------------------------------------


class Model:
    """The way to a model in another process; one connection for all calls, or one for each."""

    def __init__(self, name="server", keep=False):
        self.port, self.keep = port_of(name), keep
        self.connection = None

    def ask(self, tokens=30):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection.request("POST", "/", str(tokens))
        self.connection.getresponse().read()
        if not self.keep:
            self.connection.close()
            self.connection = None


@timed
def search_web():
    urllib.request.urlopen(f"{SEARCH}/search?q=x").read()


@timed
def wait_for_task():
    urllib.request.urlopen(f"{SEARCH}/search?q=task").read()


def alone():
    """Agent and model in one process."""
    model = load_model()
    for _ in range(LOOPS):
        generate(model, 30)
        search_web()
    generate(model, 3)


def agent(name="server", keep=""):
    """Thinks, then searches the web, blocked."""
    model = Model(name, bool(keep))
    for _ in range(LOOPS):
        model.ask()
        search_web()
    model.ask(3)


def lasting():
    """Thinks and searches until it is ended."""
    model = Model()
    while True:
        model.ask()
        search_web()


def burst():
    """Innocent: asks one thing after another, then waits for its next task as long as the others work."""
    model = Model()
    for _ in range(10):
        model.ask(3)
    while not (FOLDER / "done").exists():
        wait_for_task()


def wanderer():
    """Searches the web all the time and never calls the model."""
    port_of("server")
    for _ in range(LOOPS):
        wait_for_task()


def greedy():
    """Asks for more than the engine can do."""
    model = Model()
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        model.ask(200)
    waits["asking"] = time.monotonic() - began


@timed
def run_tool():
    """The search is another program's."""
    code = (
        f"import urllib.request\ndef fetch(): urllib.request.urlopen('{SEARCH}/search?q=x').read()\nfetch()"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True)


def tooled():
    """Waits for a subprocess that waits for the network."""
    model = Model()
    for _ in range(LOOPS):
        model.ask()
        run_tool()
    model.ask(3)


async def get(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await reader.read()
    writer.close()


async def search_async(port):
    await get(port, b"GET /search?q=x HTTP/1.0\r\n\r\n")


async def gathering():
    """Three searches in flight, then the model."""
    model, search = port_of("server"), int(SEARCH.rpartition(":")[2])
    body = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n30"
    for _ in range(LOOPS):
        await get(model, body)
        began = time.monotonic()
        await asyncio.gather(*(search_async(search) for _ in range(3)))
        waits["get"] = waits.get("get", 0.0) + time.monotonic() - began
    await get(model, body)


def main(role, *arguments):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    body = globals()[role]
    if asyncio.iscoroutinefunction(body):
        asyncio.run(body(*arguments))
    else:
        body(*arguments)
    line = json.dumps({"role": role, "pid": os.getpid(), "waits": waits}) + "\n"
    with (FOLDER / "truth.jsonl").open("a") as file:
        file.write(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
