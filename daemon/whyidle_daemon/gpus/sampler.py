"""Reads GPUs in a thread of its own: a driver's call takes microseconds, or seconds when it is in trouble.

The thread exists while something is observed on a host that has a GPU, and hands over what it read through a
bounded queue that the event loop empties on its own ticks. Without a GPU there is no thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from whyidle_daemon.facts import EngineSpan, GpuFacts, GpuSample
from whyidle_daemon.gpus.samples import ProcessRow

log = logging.getLogger(__name__)

PERIOD_S = 0.1
STATE_EVERY_S = 0.5
RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
QUEUE = 16_384
JOIN_S = 2.0


class GpuProcesses(NamedTuple):
    """Who used a GPU at ``ns``, as far as the source can tell: NVML all, DRM those that are observed."""

    gpu: str
    ns: int
    rows: tuple[ProcessRow, ...]


Reading = GpuFacts | EngineSpan | GpuSample | GpuProcesses


class Source(Protocol):
    """One kind of driver. Every method but :meth:`present` may block; none raises."""

    def present(self) -> bool:
        """Whether this host may have such a GPU; cheap."""

    def read(self, pids: frozenset[int], state: bool) -> Iterable[Reading]:
        """What is new; ``state``: also who uses what. ``pids`` are those that are observed."""

    def close(self) -> None:
        """Let go of the driver; :meth:`read` takes it up again."""


class GpuSampler:
    """The thread, and the queue out of it. All methods are for the event loop's thread."""

    def __init__(self, sources: Callable[[], list[Source]], period_s: float = PERIOD_S) -> None:
        self._make = sources
        self._period_s = period_s
        self._queue: deque[Reading] = deque(maxlen=QUEUE)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.pids: frozenset[int] = frozenset()

    @property
    def running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Begin to read, if there is anything to read."""
        if self._thread is not None:
            return
        sources = [source for source in self._make() if source.present()]
        if not sources:
            return
        self._stop = threading.Event()
        arguments = (sources, self._stop)
        self._thread = threading.Thread(target=self._run, args=arguments, name="whyidle-gpus", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; what a stuck driver still holds is left to it."""
        if self._thread is not None:
            self._stop.set()
            self._thread = None

    def close(self) -> None:
        """Stop, and wait a moment for the driver to be let go."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(JOIN_S)

    def drain(self) -> list[Reading]:
        """What was read since the last call."""
        found: list[Reading] = []
        while self._queue:
            found.append(self._queue.popleft())
        return found

    def _run(self, sources: list[Source], stop: threading.Event) -> None:
        due, state_due = time.monotonic(), 0.0
        try:
            while not stop.is_set():
                now = time.monotonic()
                state = now >= state_due
                if state:
                    state_due = now + STATE_EVERY_S - self._period_s / 2
                for source in sources:
                    self._queue.extend(source.read(self.pids, state))
                due = max(due + self._period_s, time.monotonic())
                stop.wait(due - time.monotonic())
        except Exception:
            log.exception("GPUs are read no more")
        finally:
            for source in sources:
                source.close()
