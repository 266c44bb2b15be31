"""How soon a gap is a finding on the screen: while it lasts, and after its end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.measure import BIN, Row, judge, spread
from whyidle_wire.client import Client
from whyidle_wire.records import FindingEvent, Observe, Subscribe

ROUNDS = 5
LASTS_S = 1.5
GOAL_START_S, GOAL_END_S = 1.0, 0.5

AGENT = """
import sys, time, urllib.request
from llama_cpp import Llama
from whyidle_agent.model_file import generated_model
model = Llama(str(generated_model()), n_ctx=512, n_threads=1, n_threads_batch=1, seed=1, verbose=False)
def think():
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        model.reset()
        for n, _ in enumerate(model.generate([1, 2, 3], temp=1.0)):
            if n == 20: break
def search():
    urllib.request.urlopen(sys.argv[1] + "/search?q=x").read()
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    think()
    begin = time.monotonic()
    search()
    print(begin, time.monotonic(), flush=True)
think()
"""


def run() -> tuple[str, list[Row]]:
    """Title and rows."""
    with tempfile.TemporaryDirectory() as folder:
        gaps, events = _observe(Path(folder))
    first, after = [], []
    for number, (begin, end) in enumerate(gaps, start=1):
        lasting = [at for at, count, lasts in events if begin < at and count >= number and lasts]
        ended = [at for at, count, lasts in events if end < at and count >= number and not lasts]
        first.append(min(lasting, default=float("inf")) - begin)
        after.append(min(ended, default=float("inf")) - end)
    rows = [
        Row(
            "gap to finding, after its start", f"{spread(first)} s", f"≤{GOAL_START_S:g} s",
            judge(max(first) <= GOAL_START_S),
        ),
        Row(
            "gap to finding, after its end", f"{spread(after)} s", f"≤{GOAL_END_S:g} s",
            judge(max(after) <= GOAL_END_S),
        ),
    ]  # fmt: skip
    return "From a gap to the finding in `whyidle watch`", rows


def _observe(folder: Path) -> tuple[list[tuple[float, float]], list[tuple[float, int, bool]]]:
    """When each search began and ended; when which count came, and whether the wait lasted."""
    socket, port, config = folder / "w.sock", folder / "port", folder / "config.toml"
    config.write_text("[discovery]\nenabled = false\n")
    daemon = subprocess.Popen([BIN / "whyidled", "--socket", socket, "--config", config])
    search = subprocess.Popen(
        [BIN / "whyidle-search", "--latency", str(LASTS_S), "--port-file", port], stdout=subprocess.DEVNULL
    )
    while not (socket.exists() and port.exists()):
        time.sleep(0.05)
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, f"http://127.0.0.1:{port.read_text().strip()}", str(ROUNDS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    events: list[tuple[float, int, bool]] = []
    try:
        client, watcher = Client.connect(socket), Client.connect(socket)
        for each in (client, watcher):
            each.handshake("benchmark")
        watcher.send(Subscribe(1, ("blocking_network_call",)))
        watcher.receive(30)
        client.send(Observe(1, agent.pid, ("agent",), 0.0))
        client.receive(30)

        def listen() -> None:
            while True:
                try:
                    record = watcher.receive(60)
                except Exception:
                    return
                if isinstance(record, FindingEvent):
                    finding = record.finding
                    events.append((time.monotonic(), finding["count"], finding.get("open_s") is not None))

        threading.Thread(target=listen, daemon=True).start()
        said, _ = agent.communicate("\n", timeout=120)
        return [(float(a), float(b)) for a, b in (line.split() for line in said.splitlines())], events
    finally:
        for process in (agent, search, daemon):
            process.terminate()
            process.wait()
