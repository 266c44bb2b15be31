"""Which waits of a target are worth a reading now, of as many as there may be.

A wait of a kind that its thread was not read in yet comes first, since nothing else says where that is, and a
tool may live for one. It may be in advance. Then comes what has lasted longest. A part of the readings is
kept for these: a loop that asks every few milliseconds is read again and again, and gets what they leave.
"""

from __future__ import annotations

from typing import Final

from whyidle_daemon.states import SOCKET_WAITS
from whyidle_probes.events import NO_PEER, Glance, Peer, Wait

NS: Final = 1_000_000_000
READS_PER_S: Final = 40
MAX_READS: Final = 80  # at once: the first reading of a loop learns its classes, which is some milliseconds
# What a long one counts as at most, three times and then once in ten seconds: else the loops whose classes it
# learnt would not be looked at for seconds.
LEARNING: Final = MAX_READS / 4
LEARNINGS, LEARNINGS_PER_S = 3, 0.1
INCLUDED_NS: Final = 200_000  # CPU time of a reading that nothing is charged for: a stack on a slow host
READ_COSTS_NS: Final = 75_000  # CPU time for which a reading counts as one: 0.3 % of a core at most
KEPT: Final = MAX_READS / 4  # for long waits, and as much for what is new or lasts
IN_ADVANCE: Final = MAX_READS / 4  # on a slow host the first of a thread counts as a dozen
LONG_WAIT_NS: Final = 2_000_000  # shorter ones may well be over before they are read
LASTING_NS: Final = 50_000_000
MAX_KINDS: Final = 16  # of waits of one thread
MAX_THREADS: Final = 20_000

Kind = tuple[int, Peer]


class ReadingTurns:
    """The readings that are left, and in which kinds of waits each thread was read."""

    def __init__(self) -> None:
        self._left = float(MAX_READS)
        self._learnings = float(LEARNINGS)
        self._now_ns = 0
        self._kinds: dict[int, set[Kind]] = {}

    def begin(self, now_ns: int) -> None:
        """A turn: there are as many more as time has passed."""
        elapsed = (now_ns - self._now_ns) / NS if self._now_ns else 0.0
        self._now_ns = now_ns
        self._left = min(MAX_READS, self._left + elapsed * READS_PER_S)
        self._learnings = min(LEARNINGS, self._learnings + elapsed * LEARNINGS_PER_S)

    def charge(self, cpu_ns: int) -> None:
        """One took so much; what takes longer than a reading may counts as those that take as long."""
        cost = 1 + max(0, cpu_ns - INCLUDED_NS) / READ_COSTS_NS
        if cost > LEARNING and self._learnings >= 1:
            self._learnings, cost = self._learnings - 1, LEARNING
        self._left -= cost

    @property
    def over(self) -> bool:
        """Whether nothing at all may be read."""
        return self._left < 1 - IN_ADVANCE

    @property
    def scarce(self) -> bool:
        """Whether more would be in advance."""
        return self._left < 1

    def may(self, thread: Glance) -> bool:
        """Whether a wait may be read."""
        known, slept_ns = self._known(thread), self._slept_ns(thread)
        kept = KEPT if slept_ns < LONG_WAIT_NS else 0.0
        if known and slept_ns < LASTING_NS:
            kept += KEPT
        return self._left >= 1 + (kept if known or kept else -IN_ADVANCE)

    def long(self, thread: Glance) -> bool:
        """Whether a thread sleeps for long enough to be still there when it has been read."""
        return self._slept_ns(thread) >= LONG_WAIT_NS

    def order(self, thread: Glance) -> tuple[bool, int]:
        """The least comes first, of the long waits."""
        return self._known(thread), thread.last_ns

    def was_read(self, thread: Glance) -> None:
        """Nothing more is to be found out about waits of this kind."""
        if len(self._kinds) >= MAX_THREADS:
            self._kinds.clear()
        kinds = self._kinds.setdefault(thread.tid, set())
        if len(kinds) >= MAX_KINDS:
            kinds.clear()
        kinds.add(kind(thread))

    def ended(self, tid: int) -> None:
        """A thread has ended; its number may be another's soon."""
        self._kinds.pop(tid, None)

    def _known(self, thread: Glance) -> bool:
        return kind(thread) in self._kinds.get(thread.tid, ())

    def _slept_ns(self, thread: Glance) -> int:
        return self._now_ns - thread.last_ns if thread.state > Wait.RUNQUEUE else 0


def kind(thread: Glance) -> Kind:
    """What a wait has in common with those that its place stands for: see ``naming``."""
    wait = thread.state if thread.state != Wait.RUNQUEUE else Wait.RUNNING
    return wait, thread.peer if thread.state in SOCKET_WAITS else NO_PEER
