"""A report from a recording: the live code, told the same things in the same order.

A recording that was cut off or damaged gives the report of its last checkpoint before that place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from whyidle_daemon.facts import Snapshot
from whyidle_daemon.observation import Observation
from whyidle_daemon.recording.blocks import Flag, blocks, read_file_header, unpack
from whyidle_daemon.recording.decoding import Decoder
from whyidle_daemon.recording.errors import (
    BadBlockError,
    CannotRead,
    DamagedRecording,
    MalformedError,
    TruncatedRecording,
)
from whyidle_daemon.recording.records import Begin, Checkpoint, End, Kind
from whyidle_probes.events import Engine, Thread

NO_END: Final = "the observation was broken off, or still runs"
# More than any recording has: the kernel's maps hold at most 131072 threads, and 1024 engines. A file that is
# small because what it says compresses well is not to take all memory.
MAX_THREADS: Final = 1 << 18
MAX_PROCESSES: Final = 1 << 17
MAX_ENGINES: Final = 1 << 14  # from one checkpoint to the next
_NONSENSE: Final = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What a reducer may raise that trusts its records, told impossible ones by a forged file."""


class Extent(NamedTuple):
    """How far a recording can be used: ``blocks`` of them; ``reason`` says why it is not complete."""

    blocks: int
    reason: str | None


def report(path: str | Path) -> dict[str, Any]:
    """The report of a recording, with ``recording: {complete, reason}``.

    Raises a :class:`~whyidle_daemon.recording.errors.RecordingError` when there is nothing to report.
    """
    with _open(path) as file:
        try:
            extent = _measure(file, path)
            file.seek(0)
            read_file_header(file, path)
            return _replay(file, path, extent)
        except OSError as error:
            raise CannotRead(path, error.strerror or str(error)) from None


@contextmanager
def _open(path: str | Path) -> Iterator[BinaryIO]:
    try:
        # O_NONBLOCK: a FIFO without a writer would wait for one.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CannotRead(path, error.strerror or str(error)) from None
    except ValueError:
        raise CannotRead(path, "the path holds a null byte") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise CannotRead(path, "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor has no path)
        yield file


def _measure(file: BinaryIO, path: str | Path) -> Extent:
    """Find the last checkpoint: records after it have no totals to go with. Raises RecordingError."""
    read_file_header(file, path)
    usable, reason = 0, None
    try:
        for header, _ in blocks(file):
            if header.flags & Flag.CHECKPOINT:
                usable = header.number
            if header.flags & Flag.END:
                return Extent(usable, None)
        reason = NO_END
    except BadBlockError as error:
        reason = str(error)
    if not usable:
        if reason == NO_END or "cut off" in reason:
            raise TruncatedRecording(path)
        raise DamagedRecording(path, reason)
    return Extent(usable, reason)


class _State:
    """What has been read so far."""

    def __init__(self) -> None:
        self.begin: Begin | None = None
        self.observation: Observation | None = None
        self.threads: dict[int, Thread] = {}
        self.engines: list[Engine] = []  # since the last checkpoint
        self.latest: list[Engine] = []  # up to it
        self.checkpoint: Checkpoint | None = None
        self.end: End | None = None

    def take(self, kind: int, record: Any) -> None:
        if (kind == Kind.BEGIN) != (self.observation is None):
            raise MalformedError("the first record, and only that, tells what was observed")
        if kind == Kind.BEGIN:
            self.begin = record
            self.observation = Observation(*record[:5])
        elif kind == Kind.LIVE_THREAD:
            self.threads[record.tid] = record
            _within(len(self.threads), MAX_THREADS, "threads")
        elif kind == Kind.THREAD_GONE:
            self.threads.pop(record.tid, None)
        elif kind == Kind.ENGINE:
            self.engines.append(record)
            _within(len(self.engines), MAX_ENGINES, "engines")
        elif kind == Kind.CHECKPOINT:
            self.checkpoint = record
            self.latest, self.engines = self.engines, []
        elif kind == Kind.END:
            self.end = record
        else:
            assert self.observation is not None
            self.observation.add(record)
            _within(self.observation.processes, MAX_PROCESSES, "processes")


def _within(count: int, most: int, what: str) -> None:
    if count > most:
        raise MalformedError(f"more than {most} {what} at once")


def _replay(file: BinaryIO, path: str | Path, extent: Extent) -> dict[str, Any]:
    state, usable = _State(), 0
    try:
        for header, stored in blocks(file):
            origin = state.begin.start_ns if state.begin is not None else 0
            try:
                for kind, record in Decoder(origin).decode(unpack(header, stored), header.records):
                    state.take(kind, record)
            except MalformedError as error:
                raise BadBlockError(f"block {header.number} is malformed: {error}") from None
            if header.number == extent.blocks:
                break
            if header.flags & Flag.CHECKPOINT:
                usable = header.number
    except BadBlockError as error:
        reason = str(error)
    except _NONSENSE as error:
        raise DamagedRecording(path, f"its records make no sense ({type(error).__name__})") from None
    else:
        return _finished(state, path, extent.reason)
    if not usable:
        raise DamagedRecording(path, reason)
    # Once more, up to there: to keep the threads of each checkpoint for this would cost as much at every one.
    file.seek(0)
    read_file_header(file, path)
    return _replay(file, path, Extent(usable, reason))


def _finished(state: _State, path: str | Path, reason: str | None) -> dict[str, Any]:
    begin, checkpoint = state.begin, state.checkpoint
    if state.observation is None or begin is None or checkpoint is None:
        raise DamagedRecording(path, reason or "it holds no totals")
    status = state.end.exit_status if state.end is not None else None
    snapshot = Snapshot(checkpoint.ns, ordered(state.threads.values()), tuple(state.latest))
    try:
        found = state.observation.report(
            snapshot, begin.host, checkpoint.loss, checkpoint.overhead, exit_status=status
        )
    except _NONSENSE as error:
        raise DamagedRecording(path, f"its records make no sense ({type(error).__name__})") from None
    found["recording"] = {"complete": reason is None, "reason": reason}
    return found


def ordered(threads: Iterable[Thread]) -> tuple[Thread, ...]:
    """The threads of a snapshot, in the order that live and replayed reports have in common."""
    return tuple(sorted(threads, key=lambda thread: thread.tid))
