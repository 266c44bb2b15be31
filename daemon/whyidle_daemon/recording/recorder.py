"""Writes one observation to a file while it runs.

:class:`RecordedObservation` is an :class:`Observation` that keeps what it is told, so nothing can reach a
report without being in the file. Records become blocks of 64 KiB, or of a second; the kernel's totals go in
as checkpoints, from which a report can be made even if nothing comes after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from whyidle_daemon.facts import Host, Loss, Overhead, Snapshot
from whyidle_daemon.observation import PAGE_SIZE, Anything, Observation
from whyidle_daemon.recording.blocks import Flag
from whyidle_daemon.recording.encoding import Encoder
from whyidle_daemon.recording.output import Output
from whyidle_daemon.recording.records import KIND_OF, Begin, Checkpoint, End, Kind, ThreadGone
from whyidle_daemon.version import VERSION
from whyidle_probes.events import Thread

BLOCK_BYTES: Final = 64 * 1024
CHECKPOINT_EVERY_S: Final = 2.0
CHECKPOINT_SHARE: Final = 0.02
"""Of the time, at most, goes into checkpoints: ten thousand threads are not copied every two seconds."""

CLOSE_TIMEOUT_S: Final = 1.0


class Recorder:
    """One recording. Nothing it does raises: it ends with a ``failure`` instead."""

    def __init__(self, output: Output, begin: Begin, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: str | None = None
        self._output = output
        self._clock = clock
        self._origin = begin.start_ns
        self._parts: list[bytes] = []
        self._size = 0
        self._threads: dict[int, Thread] = {}
        self._due = 0.0
        self._ended = False
        self._encoder = Encoder(0)
        self._put(begin, Kind.BEGIN)

    def record(self, record: Any) -> None:
        """Take what the observation is told; what has no number tells a report nothing."""
        kind = KIND_OF.get(type(record))
        if kind is not None:
            self._put(record, kind)

    def tick(self, state: Callable[[], tuple[Snapshot, Loss, Overhead]]) -> None:
        """Once a second: write what there is, with a checkpoint (``state``) if it is time for one."""
        if self.over:
            return
        now = self._clock()
        flags = Flag.NONE
        if now >= self._due:
            self._checkpoint(*state())
            flags = Flag.CHECKPOINT
            took = self._clock() - now
            self._due = now + max(CHECKPOINT_EVERY_S - 0.1, took / CHECKPOINT_SHARE)  # a tick may come early
        self._flush(flags)

    def finish(
        self,
        snapshot: Snapshot,
        loss: Loss,
        overhead: Overhead,
        exit_status: int | None,
        wait_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        """The observation came to its end, in this state; wait so long for the disk to have it."""
        if not self.over:
            self._checkpoint(snapshot, loss, overhead)
            self._put(End(exit_status), Kind.END, last=True)
            self._flush(Flag.CHECKPOINT | Flag.END)
        self.close(wait_s)

    def close(self, wait_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what there is and close the file; without :meth:`finish` it has no end, and says so."""
        if self._ended:
            return
        self._flush()
        self._ended = True
        self._output.close(wait_s)
        self.failure = self.failure or self._output.failure

    @property
    def size(self) -> int:
        """Bytes in the file by now."""
        return self._output.size

    @property
    def over(self) -> bool:
        """Nothing more is recorded: it was closed, or failed."""
        self.failure = self.failure or self._output.failure
        return self._ended or self.failure is not None

    def state(self) -> dict[str, Any]:
        """The report's ``recording``."""
        return {"complete": self.failure is None, "reason": self.failure}

    def _checkpoint(self, snapshot: Snapshot, loss: Loss, overhead: Overhead) -> None:
        tids = set()
        for thread in snapshot.threads:
            tids.add(thread.tid)
            if self._threads.get(thread.tid) != thread:
                self._threads[thread.tid] = thread
                self._put(thread, Kind.LIVE_THREAD)
        for tid in self._threads.keys() - tids:
            del self._threads[tid]
            self._put(ThreadGone(tid), Kind.THREAD_GONE)
        for engine in snapshot.engines:
            self._put(engine, Kind.ENGINE)
        self._put(Checkpoint(snapshot.ns, loss, overhead), Kind.CHECKPOINT, last=True)

    def _put(self, record: tuple[Any, ...], kind: Kind, last: bool = False) -> None:
        if self._ended or self.failure is not None:  # a disk's is noticed with the block
            return
        try:
            data = self._encoder.encode(record, kind)
        except (ValueError, TypeError, OverflowError) as error:
            self.failure = f"a {type(record).__name__} cannot be written: {error}"
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size >= BLOCK_BYTES and not last:
            self._flush()

    def _flush(self, flags: Flag = Flag.NONE) -> None:
        if self._parts and not self.over:
            self._output.put(b"".join(self._parts), len(self._parts), flags)
        self._parts, self._size = [], 0
        self._encoder = Encoder(self._origin)


class RecordedObservation(Observation):
    """An observation that is recorded while it is made, into as many files as are asked for."""

    def __init__(
        self,
        start_ns: int,
        roots: tuple[int, ...],
        command: tuple[str, ...],
        started_at: str,
        *,
        outputs: Sequence[Output],
        host: Host,
    ) -> None:
        super().__init__(start_ns, roots, command, started_at, PAGE_SIZE)
        begin = Begin(start_ns, roots, command, started_at, PAGE_SIZE, host, VERSION)
        self.recorders = tuple(Recorder(output, begin) for output in outputs)

    def add(self, record: Anything) -> None:
        """Take one record, and keep it."""
        for recorder in self.recorders:
            recorder.record(record)
        super().add(record)
