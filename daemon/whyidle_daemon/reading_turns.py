"""Which waits of a target are worth a reading now, of as many as there may be.

A wait of a kind that its thread was not read in yet comes first, since nothing else says where that is, and
so does one that lasts; of these the one that has lasted longest. A part of the readings is kept for them: a
loop that asks every few milliseconds is read again and again, and gets what they leave. A few readings of new
kinds may come on top, for the tool that lives for one wait while others have used up what there was.
"""

from __future__ import annotations

from typing import Final

from whyidle_daemon.states import SOCKET_WAITS
from whyidle_probes.events import NO_PEER, Glance, Peer, Wait

NS: Final = 1_000_000_000
READS_PER_S: Final = 40
MAX_READS: Final = 80  # at once: the first reading of a loop learns its classes, which is some milliseconds
# What a long one counts as at most, eight times and then once in five seconds: on a slow host to learn the
# classes of a loop's tasks takes 20 ms, twice, and else the loop would not be looked at for seconds.
LEARNING: Final = MAX_READS / 4
LEARNINGS, LEARNINGS_PER_S = 8, 0.2
INCLUDED_NS: Final = 300_000  # CPU time of a reading that nothing is charged for: a stack on a slow host
READ_COSTS_NS: Final = 150_000  # beyond that, for which it counts as one more: 0.6 % of a core at most
KEPT: Final = MAX_READS / 4  # for long waits, and as much for what is new or lasts
EXTRA, EXTRA_PER_S = MAX_READS / 4, READS_PER_S / 20  # on a slow host the first of a thread counts as a dozen
LONG_WAIT_NS: Final = 2_000_000  # shorter ones may well be over before they are read
LASTING_NS: Final = 50_000_000
TRIES: Final = 3  # for one that changes while it is read, or whose tasks cannot be told
MAX_KINDS: Final = 16  # of waits of one thread
MAX_THREADS: Final = 1024


class ReadingTurns:
    """The readings that are left, and in which kinds of waits each thread was read."""

    def __init__(self) -> None:
        self._left = float(MAX_READS)
        self._extra = float(EXTRA)
        self._learnings = float(LEARNINGS)
        self.now_ns = 0
        self.learned_ns = 0  # when a wait was read last of a kind that was not known
        self._kinds: dict[int, dict[int, int]] = {}  # tid -> how often a kind was tried, by its hash

    def begin(self, now_ns: int) -> None:
        """A turn: there are as many more as time has passed."""
        elapsed = (now_ns - self.now_ns) / NS if self.now_ns else 0.0
        self.now_ns = now_ns
        self._left = min(MAX_READS, self._left + elapsed * READS_PER_S)
        self._extra = min(EXTRA, self._extra + elapsed * EXTRA_PER_S)
        self._learnings = min(LEARNINGS, self._learnings + elapsed * LEARNINGS_PER_S)

    def charge(self, cpu_ns: int) -> None:
        """One took so much; what takes longer than a reading may counts as those that take as long."""
        cost = 1 + max(0, cpu_ns - INCLUDED_NS) / READ_COSTS_NS
        if cost > LEARNING and self._learnings >= 1:
            self._learnings, cost = self._learnings - 1, LEARNING
        if self._left >= 1:
            self._left -= cost
        else:
            self._extra -= cost

    @property
    def over(self) -> bool:
        """Whether nothing at all may be read."""
        return self._left < 1 and self._extra < 1

    @property
    def scarce(self) -> bool:
        """Whether what is new and what lasts needs all there is."""
        return self._left < 1 + KEPT

    @property
    def dear(self) -> bool:
        """Whether another try for the same short wait would be at the cost of others."""
        return self._left < 1 + 2 * KEPT

    def may(self, thread: Glance) -> bool:
        """Whether a wait may be read."""
        slept_ns = self._slept_ns(thread)
        if slept_ns < LONG_WAIT_NS:
            return self._left >= 1 + (2 * KEPT if self._known(thread) else KEPT)
        if slept_ns >= LASTING_NS and self._left >= 1:
            return True
        if self._known(thread):
            return self._left >= 1 + KEPT
        return not self.over

    def long(self, thread: Glance) -> bool:
        """Whether a thread sleeps for long enough to be still there when it has been read."""
        return self._slept_ns(thread) >= LONG_WAIT_NS

    def order(self, thread: Glance) -> tuple[bool, int]:
        """The least comes first, of the long waits."""
        return self._slept_ns(thread) < LASTING_NS and self._known(thread), thread.last_ns

    def tried(self, thread: Glance, *, settled: bool) -> None:
        """A wait was read; ``settled``: nothing more is to be found out about its kind."""
        kinds = self._kinds.pop(thread.tid, {})
        kind = _kind(thread)
        before = kinds.pop(kind, 0)
        if before < TRIES and thread.state > Wait.RUNQUEUE:
            self.learned_ns = self.now_ns
        if len(kinds) >= MAX_KINDS:
            del kinds[next(iter(kinds))]  # what was read longest ago
        kinds[kind] = TRIES if settled else before + 1
        self._kinds[thread.tid] = kinds
        if len(self._kinds) > MAX_THREADS:
            del self._kinds[next(iter(self._kinds))]  # who was read longest ago

    def ended(self, tid: int) -> None:
        """A thread has ended, or executes another program; its number may be another's soon."""
        self._kinds.pop(tid, None)

    def _known(self, thread: Glance) -> bool:
        return self._kinds.get(thread.tid, {}).get(_kind(thread), 0) >= TRIES

    def _slept_ns(self, thread: Glance) -> int:
        return self.now_ns - thread.last_ns if thread.state > Wait.RUNQUEUE else 0


def wait_and_peer(thread: Glance) -> tuple[int, Peer]:
    """What a thread that is read waits for: on its way to a CPU it runs, and only sockets have a peer."""
    wait = thread.state if thread.state != Wait.RUNQUEUE else Wait.RUNNING
    return wait, thread.peer if thread.state in SOCKET_WAITS else NO_PEER


def _kind(thread: Glance) -> int:
    """What a wait has in common with those that its place stands for (``wait_tables``), in eight bytes."""
    wait, peer = wait_and_peer(thread)
    return hash((wait, peer.remote, peer.remote_port, peer.family))
