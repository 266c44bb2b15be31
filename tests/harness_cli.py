"""The installed commands as a user runs them, and a real daemon and search server to run them against."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from harness import PATIENCE, wait_until
from whyidle_wire.client import Client
from whyidle_wire.records import Observe, Observing, StallEvent, Subscribe, Subscribed

BIN = Path(sys.executable).parent
NO_DISCOVERY = "[discovery]\nenabled = false\n"  # of what else runs on this machine


def whyidle(*arguments: str | Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run the CLI to its end."""
    return subprocess.run(
        [BIN / "whyidle", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout * PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )


class Daemon:
    """A ``whyidled`` on its own socket; stopped or killed by its own PID."""

    def __init__(
        self,
        folder: Path,
        wait: bool = True,
        config: str = NO_DISCOVERY,
        arguments: Sequence[str | Path] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        """``prefix`` is a program that starts it with other privileges, such as setpriv."""
        self.socket = folder / "w.sock"
        self.config = folder / "config.toml"
        self.config.write_text(config)
        self._log = folder / f"daemon-{len(list(folder.iterdir()))}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*prefix, BIN / "whyidled", "--socket", self.socket),
                    *("--config", self.config, "-v", *arguments),
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            wait_until(
                lambda: "probes attached" in self.said() or self.process.poll() is not None, "the daemon"
            )
            assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self._log.read_text()

    def client(self) -> Client:
        client = Client.connect(self.socket)
        try:
            client.handshake("test")
        except BaseException:
            client.close()
            raise
        return client

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def stalls(daemon: Daemon, pid: int) -> Iterator[Callable[[], StallEvent]]:
    """One client has the process observed, another is told of its stalls: a call waits for the next."""
    with daemon.client() as watcher, daemon.client() as owner:
        watcher.send(Subscribe(1))
        assert isinstance(watcher.receive(10), Subscribed)
        owner.send(Observe(1, pid, ("hung",), 0))
        assert isinstance(owner.receive(10), Observing)

        def following() -> StallEvent:
            while True:
                record = watcher.receive(30)
                assert record is not None, "no stall was reported"
                if isinstance(record, StallEvent):
                    return record

        yield following


class SearchServer:
    """``whyidle-search``, with the log of how long it held each request."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self.log = folder / "requests.jsonl"
        port = folder / "port"
        self.process = subprocess.Popen(
            [
                BIN / "whyidle-search",
                *("--latency", str(latency_s), "--port-file", str(port), "--requests-log", str(self.log)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(port.exists, "the search server")
        self.port = int(port.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def held_s(self) -> list[float]:
        """Seconds each request was held, by the server's own clock."""
        return [json.loads(line)["held_s"] for line in self.log.read_text().splitlines()]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
