"""A mixed load in front of a daemon: agents that stay and that come and go, execs, clients of every kind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from benchmarks.measure import BIN
from whyidle_wire.client import Client
from whyidle_wire.codec import encode
from whyidle_wire.errors import WireError
from whyidle_wire.records import PROTOCOL, Finish, Hello, Observe, Observing, Report, Subscribe

RESIDENTS = 4
LATENCY_S = 2.0  # of a search: the agents mostly wait, as agents do
EXECS_PER_BURST, BURST_EVERY_S = 100, 5.0
CLIENT_EVERY_S, SHORT_EVERY_S, RELOAD_EVERY_S, SCRAPE_EVERY_S = 0.5, 2.0, 30.0, 5.0


class Load:
    """Runs from ``__enter__`` to ``__exit__``; a part that breaks ends the soak with its error."""

    def __init__(self, folder: Path, daemon: int, daemon_socket: Path, metrics_port: int) -> None:
        self._folder, self._daemon, self._socket = folder, daemon, daemon_socket
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._over = threading.Event()
        self._starting = threading.Lock()  # no child is started unseen by the end
        self._random = Random(6)
        self._children: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self.error: BaseException | None = None
        self.done: dict[str, int] = {}

    def __enter__(self) -> Load:
        port = self._folder / "port"
        self._start(BIN / "whyidle-search", "--latency", str(LATENCY_S), "--port-file", port)
        while not port.exists():
            time.sleep(0.02)
        self._url = f"http://127.0.0.1:{port.read_text().strip()}"
        self._residents = [self._agent(f"resident{n}", 1_000_000) for n in range(RESIDENTS)]
        for every_s, act in (
            (1.0, self._visitor),
            (BURST_EVERY_S, self._burst),
            (SHORT_EVERY_S, self._short_lived),
            (CLIENT_EVERY_S, self._one_client),
            (SCRAPE_EVERY_S, self._scrape),
            (RELOAD_EVERY_S, self._reload),
        ):
            self._threads.append(threading.Thread(target=self._repeat, args=(every_s, act), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._starting:
            self._over.set()
        for child in self._children:
            child.kill()
        for thread in self._threads:
            thread.join(timeout=60)
        for child in self._children:
            child.wait()

    def _repeat(self, every_s: float, act: Callable[[], None]) -> None:
        try:
            while not self._over.wait(every_s):
                act()
                name = act.__name__.strip("_")
                self.done[name] = self.done.get(name, 0) + 1
        except BaseException as error:
            if not self._over.is_set():
                self.error = error

    def _start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with self._starting:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self._children = [*(known for known in self._children if known.poll() is None), child]
            if self._over.is_set():
                child.kill()
            return child

    def _agent(self, name: str, loops: int) -> subprocess.Popen[bytes]:
        """A reference agent with a model of its own."""
        return self._start(
            BIN / "whyidle-agent", "run", "--search-url", self._url, "--loops", str(loops),
            "--seed", str(self._random.randrange(1000)), "--workdir", self._folder / name,
        )  # fmt: skip

    # --- each of these is done again and again -----------------------------------------------------------

    def _visitor(self) -> None:
        """An agent that runs two steps and ends; every third one is killed in the middle."""
        agent = self._agent("visitor", 2)
        killed_after = self._random.choice((None, None, 6.0))
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(killed_after)
        agent.kill()
        agent.wait()

    def _burst(self) -> None:
        """Programs that nobody observes, one after another as fast as a shell starts them."""
        loop = f"i=0; while [ $i -lt {EXECS_PER_BURST} ]; do /bin/true; i=$((i+1)); done"
        self._start("/bin/sh", "-c", loop).wait()

    def _short_lived(self) -> None:
        """What a rule takes for an agent, and is over at once; with threads and children of its own."""
        code = (
            "import subprocess, threading\n"
            "for _ in range(5): threading.Thread(target=lambda: None).start()\n"
            "subprocess.run(['/bin/sleep', '0.3'])"
        )
        self._start("/usr/bin/python3", "-c", code, "whyidle-agent run", f"--workdir {self._folder}").wait()

    def _one_client(self) -> None:
        with contextlib.suppress(OSError, WireError):  # refused, or closed on: that is the daemon's right
            self._random.choice(
                (self._vanish, self._half_a_frame, self._garbage, self._subscribe, self._never_read,
                 self._observe_and_vanish, self._observe)
            )()  # fmt: skip

    def _vanish(self) -> None:
        self._raw().close()

    def _half_a_frame(self) -> None:
        with self._raw() as raw:
            raw.sendall(encode(Hello(PROTOCOL, "half"))[:7])

    def _garbage(self) -> None:
        with self._raw() as raw:
            raw.sendall(self._random.randbytes(2000))

    def _subscribe(self) -> None:
        with self._client() as client:
            client.send(Subscribe(1, (), None, True))
            self._read_for(client, 3.0)

    def _never_read(self) -> None:
        with self._client() as client:
            client.send(Subscribe(1, (), None, True))
            self._over.wait(5)

    def _observe_and_vanish(self) -> None:
        with self._client() as client:
            client.send(Observe(1, self._random.choice(self._residents).pid, (), 0.1))
            self._read_for(client, 1.0)

    def _observe(self) -> None:
        with self._client() as client:
            client.send(Observe(1, self._random.choice(self._residents).pid, (), 0))
            answer = client.receive(10)
            if isinstance(answer, Observing):
                self._over.wait(2)
                client.send(Finish(answer.observation, None))
                while not isinstance(client.receive(10), Report | None):
                    pass

    def _scrape(self) -> None:
        with urllib.request.urlopen(self._metrics, timeout=20) as answer:
            answer.read()

    def _reload(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._daemon, signal.SIGHUP)

    # --- clients --------------------------------------------------------------------------------------------

    def _raw(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(5)
        try:
            raw.connect(str(self._socket))
        except OSError:
            raw.close()
            raise
        return raw

    @contextlib.contextmanager
    def _client(self) -> Iterator[Client]:
        with Client.connect(self._socket) as client:
            client.handshake("soak")
            yield client

    def _read_for(self, client: Client, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            client.receive(left)
