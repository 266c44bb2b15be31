"""Runs the programs one by one under ``whyidle run``, beside the corpus's server and one daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness import wait_until
from harness_cli import BIN, Daemon, SearchServer, load

from .compare import Verdict, compare, failed
from .expect import HERE, Program, landed
from .server import DNS_ADDRESS

TIMEOUT_S = 60
MEMORY = Path("/dev/shm")


class Bench(NamedTuple):
    """What all programs share."""

    folder: Path
    ports: dict[str, int]
    socket: Path
    landed: frozenset[str]


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Server and daemon, for as long as the programs run."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=corpus.test", "-keyout", key, "-out", cert),
        ],
        check=True,
        capture_output=True,
    )
    ports = folder / "ports.json"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, HERE / "server.py", ports, cert, key],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: ports.exists() or server.poll() is not None, "the corpus server")
        daemon_folder = folder / "daemon"
        daemon_folder.mkdir()
        (folder / "resolv.conf").write_text(f"nameserver {DNS_ADDRESS}\noptions timeout:9 attempts:1\n")
        (folder / "searx").mkdir()
        with Daemon(daemon_folder) as daemon, SearchServer(folder / "searx", 0.4) as searx:
            yield Bench(folder, load(ports) | {"searx": searx.port}, daemon.socket, landed())
    finally:
        server.kill()
        server.wait()


def run(bench: Bench, program: Program) -> Verdict:
    """Run one program observed and judge the report."""
    if lacks := program.lacks():
        return failed(program, bench.landed, f"not installed: {', '.join(lacks)}")
    # In memory: making a file on a disk that was just written to may wait for its journal, after the account.
    truth = MEMORY / f"whyidle-truth-{os.getpid()}.json"
    truth.unlink(missing_ok=True)
    report = bench.folder / f"{program.name}.report.json"
    command = [sys.executable, str(program.path)]
    if program.wrap == "dns":
        script = f'mount --bind "{bench.folder}/resolv.conf" /etc/resolv.conf && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, "sh", *command]
    with (bench.folder / f"{program.name}.log").open("w+") as log:
        process = subprocess.Popen(
            [BIN / "whyidle", "run", "--socket", bench.socket, "--json", report, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ
            | {
                "WHYIDLE_TRUTH": str(truth),
                "WHYIDLE_PORTS": json.dumps(bench.ports),
                "WHYIDLE_FOLDER": str(bench.folder),
                "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        try:
            status = process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return failed(program, bench.landed, f"still running after {TIMEOUT_S} s")
        log.seek(0)
        said = log.read()
    if status or not truth.exists() or not report.exists():
        last = (said.strip().splitlines() or ["nothing said"])[-1]
        return failed(program, bench.landed, f"exit status {status}: {last[:100]}")
    account = load(truth)
    truth.unlink()
    return compare(program, bench.landed, account, load(report))
