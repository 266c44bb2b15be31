"""Calls done one after another, that could have been issued together.

A call is one or more waits: connecting, a TLS handshake, the answer, more of the answer as it trickles in. A
new call begins on another connection; where a stack shows that the thread awaits the head of an answer; or,
without a stack, at every wait. Only the first two are *certain*, for a finding must not rest on a guess.

A call after one whose connection broke is the same call tried again: it could not have been made earlier.

In an asyncio loop the waits of the selector count while one single task awaits the network: with more than
one in flight the calls do overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from whyidle_daemon.processes import Process
from whyidle_daemon.states import SELECTORS
from whyidle_daemon.timelines import Record
from whyidle_daemon.waits import WaitKey

MAX_SEQUENCES = 1024
PAUSE_SHARE = 0.2  # of the wait before: longer pauses are work between the calls


class Tally:
    """Calls of one thread in order of time."""

    __slots__ = ("_broken", "_last", "calls", "certain", "connecting", "longest", "total")

    def __init__(self) -> None:
        self.calls = 0
        self.certain = 0
        self.total = 0
        self.longest = 0  # of the calls, without connecting
        self.connecting = 0
        self._broken = False  # the last call got no answer
        self._last: list[int] = [0, 0, 0]  # its local port, how long the call is, whether it only connected

    def add(self, record: Record, ns: int) -> None:
        """Count ``ns`` of a wait that comes after those before."""
        self.total += ns
        place = record.key.place if record.key is not None else None
        role = place.role if place is not None else ""
        port, length, connecting = self._last
        other = not self.calls or (record.port and record.port != port)
        request = role == "request" and not connecting
        again, self._broken = self._broken, record.reset
        if again:
            pass
        elif other or request or (not connecting and (place is None or not record.port)):
            self.calls += 1
            self.certain += bool(other or request)
            length = 0
        if record.connecting:
            self.connecting += ns
        else:
            length += ns
        self.longest = max(self.longest, length)
        self._last = [record.port or port, length, record.connecting or role == "connect"]

    @property
    def needed(self) -> int:
        """What remains when all are issued together: the longest call, and the time spent connecting."""
        return min(self.total, self.longest + self.connecting)


class RunsKey(NamedTuple):
    """Calls of one function, whoever its peers are; or without a stack, of one peer."""

    process: Process
    tid: int
    function: str | None
    file: str | None
    end: tuple[bytes, int] | None


class Runs:
    """Sums over all runs of two calls or more."""

    __slots__ = ("calls", "keys", "longest_ns", "longest_run", "runs", "saves_ns", "squares", "total_ns")

    def __init__(self) -> None:
        self.runs = 0
        self.calls = 0
        self.total_ns = 0
        self.saves_ns = 0
        self.squares = 0  # of what each run saves: how much the next ones may differ
        self.longest_run = 0
        self.longest_ns = 0
        self.keys: dict[WaitKey, int] = {}

    def copy(self) -> Runs:
        """A copy that can be changed without changing this one."""
        twin = Runs()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.keys = dict(self.keys)
        return twin


class Sequences:
    """Runs of calls, by thread and function."""

    def __init__(self) -> None:
        self.sums: dict[RunsKey, Runs] = {}

    def copy(self) -> Sequences:
        """A copy that can be changed without changing this one."""
        twin = Sequences()
        twin.sums = {key: sums.copy() for key, sums in self.sums.items()}
        return twin

    def gap(self, start_ns: int, end_ns: int, records: Iterable[Record]) -> None:
        """Count the calls between two inferences."""
        runs: dict[RunsKey, list[tuple[Record, int]]] = {}
        for record in records:
            key = _sequence_of(record)
            ns = min(record.start_ns + record.blocked_ns, end_ns) - max(record.start_ns, start_ns)
            if key is not None and ns > 0:
                runs.setdefault(key, []).append((record, ns))
        for key, run in runs.items():
            self._take(key, run)

    def alone(self, records: Iterable[Record]) -> None:
        """Count the calls of a thread without an engine: those with little in between."""
        runs: dict[RunsKey, list[tuple[Record, int]]] = {}
        for record in records:
            key = _sequence_of(record)
            if key is None:
                continue
            run = runs.setdefault(key, [])
            if run and record.start_ns - run[-1][0].end_ns > PAUSE_SHARE * run[-1][1]:
                self._take(key, run)
                run = runs[key] = []
            run.append((record, record.blocked_ns))
        for key, run in runs.items():
            self._take(key, run)

    def _take(self, key: RunsKey, run: list[tuple[Record, int]]) -> None:
        tally = Tally()
        for record, ns in run:
            tally.add(record, ns)
        if tally.certain < 2:
            return
        if key not in self.sums and len(self.sums) >= MAX_SEQUENCES:
            for least in sorted(self.sums, key=lambda key: self.sums[key].saves_ns)[: MAX_SEQUENCES // 2]:
                del self.sums[least]
        sums = self.sums.setdefault(key, Runs())
        sums.runs += 1
        sums.calls += tally.certain
        sums.total_ns += tally.total
        saves = tally.total - tally.needed
        sums.saves_ns += saves
        sums.squares += saves * saves
        sums.longest_run = max(sums.longest_run, tally.certain)
        sums.longest_ns = max(sums.longest_ns, tally.longest)
        for record, ns in run:
            assert record.key is not None
            if record.key in sums.keys or len(sums.keys) < 16:
                sums.keys[record.key] = sums.keys.get(record.key, 0) + ns


def _sequence_of(record: Record) -> RunsKey | None:
    key = record.key
    if key is None or not record.blocked_ns:
        return None
    place = key.place
    # Without a port of its own no answer ended it: it is somebody's, but no call of its own.
    if key.wait in SELECTORS and key.port and record.port and place is not None and place.loop == "awaiting":
        return RunsKey(key.process, key.tid, place.function, place.file, None)
    if key.state != "network":
        return None
    if place is None:
        return RunsKey(key.process, key.tid, None, None, (key.remote, key.port))
    if place.loop:
        return None
    return RunsKey(key.process, key.tid, place.function, place.file, None)
