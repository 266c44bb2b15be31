"""A GPU job on simulated hardware: works, then waits for a slow server, in turns, and writes down the truth.

``gpu_job.py ROUNDS BUSY_S PORT``: the server on that port answers each byte when it pleases. Prints a JSON
object of the gaps (CLOCK_MONOTONIC ns) when it is done.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulators import nvml


def search(client: socket.socket) -> None:
    client.send(b"x")
    client.recv(1)


def main() -> None:
    rounds, busy_s, port = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    gpu = nvml.attach(Path(os.environ[nvml.VARIABLE]))[0]
    gpu.run((os.getpid(), 5 * nvml.GIB, 50))
    client = socket.create_connection(("127.0.0.1", port))
    gaps: list[tuple[int, int]] = []
    time.sleep(1.0)  # it holds memory before it works, as jobs that load a model do
    gpu.set("busy")
    for _ in range(rounds):
        time.sleep(busy_s)
        start = gpu.set("idle")
        search(client)
        gaps.append((start, gpu.set("busy")))
    time.sleep(busy_s)
    gpu.set("idle")
    print(json.dumps({"gaps": gaps, "pid": os.getpid()}), flush=True)


main()
