"""An engine's idle time by its root causes: the segments of :mod:`whyidle_daemon.chains`, summed.

The kernel says exactly how the driver spent a gap by wait; between its slices that is also waits too short
for slices, and waits for a CPU, of which slices only give the sum. What the walk found to be the driver's own
time between slices, or in the queue, is split in that proportion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from whyidle_daemon.chains import Chain, Segment
from whyidle_daemon.processes import Process
from whyidle_daemon.states import SELECTORS, state_of
from whyidle_daemon.waits import WaitKey
from whyidle_probes.events import Wait

MAX_CHAINS = 4  # of one cause
_DATED = frozenset({int(Wait.LISTEN), int(Wait.UNKNOWN)})


class Cause(NamedTuple):
    """What an engine was idle for: thread ``tid`` of ``process`` in ``wait``, for the peer of ``key``.

    ``nobody``: it waited to be asked for work, and nobody asked.
    """

    process: Process
    tid: int
    wait: int
    key: WaitKey | None
    nobody: bool = False

    @property
    def state(self) -> str:
        """The report's state. A loop that an answer woke waited for the network."""
        if self.key is None:
            return state_of(self.wait)
        if self.wait in SELECTORS and self.key.port and not self.nobody:
            return "network"
        return self.key.state


class RootPiece(NamedTuple):
    """Part of a gap that has one cause, and the way there."""

    cause: Cause
    chain: Chain
    ns: int


def roots_of(
    segments: Iterable[Segment], own: Sequence[tuple[int, WaitKey | None, int]]
) -> tuple[RootPiece, ...]:
    """Segments of one gap by cause and chain; ``own`` is the driver's exact ``(wait, key, ns)``, or empty."""
    found: dict[tuple[Cause, Chain], int] = {}

    def take(segment: Segment, wait: int, key: WaitKey | None, ns: int) -> None:
        last = segment.root._replace(wait=wait, key=key)
        cause = Cause(last.process, last.tid, wait, key, segment.nobody)
        at = cause, (*segment.chain[:-1], last)
        found[at] = found.get(at, 0) + ns

    unsure: list[Segment] = []
    left = {(wait, key): ns for wait, key, ns in own}
    for segment in segments:
        root, length = segment.root, segment.end_ns - segment.start_ns
        # Turns on a shared CPU are told by their sum: how much of it was in the gap, the totals say.
        dated = segment.dated and root.wait != Wait.RUNQUEUE
        if own and len(segment.chain) == 1 and not dated:
            unsure.append(segment)
            continue
        take(segment, root.wait, root.key, length)
        if len(segment.chain) == 1 and (root.wait, root.key) in left:
            left[root.wait, root.key] = max(0, left[root.wait, root.key] - length)
    for segment in unsure:
        length = rest = segment.end_ns - segment.start_ns
        among = {
            what: ns for what, ns in left.items() if segment.root.wait == Wait.UNKNOWN or _is_short(*what)
        }
        total = sum(among.values())
        for (wait, key), ns in among.items():
            if part := length * ns // total if total else 0:
                take(segment, wait, key, part)
                rest -= part
        if rest:
            take(segment, segment.root.wait, None, rest)
    return tuple(RootPiece(cause, chain, ns) for (cause, chain), ns in found.items())


def _is_short(wait: int, key: WaitKey | None) -> bool:
    """Time on the CPU, and in waits that no slice is of."""
    return key is None and wait not in _DATED


class RootSums:
    """Root causes over all gaps, and the ways to each."""

    def __init__(self) -> None:
        self.causes: dict[Cause, int] = {}
        self.chains: dict[Cause, dict[Chain, int]] = {}

    def copy(self) -> RootSums:
        twin = RootSums()
        twin.causes = dict(self.causes)
        twin.chains = {cause: dict(chains) for cause, chains in self.chains.items()}
        return twin

    def take(self, pieces: Iterable[RootPiece], limit: int) -> None:
        for cause, chain, ns in pieces:
            self.causes[cause] = self.causes.get(cause, 0) + ns
            chains = self.chains.setdefault(cause, {})
            if chain in chains or len(chains) < MAX_CHAINS:
                chains[chain] = chains.get(chain, 0) + ns
        if len(self.causes) > limit:
            self._fold(limit)

    def _fold(self, limit: int) -> None:
        """Forget the names of what cost the least; the time stays with its thread."""
        ranked = sorted(self.causes, key=lambda cause: -self.causes[cause])
        for cause in ranked[limit // 2 :]:
            if cause.key is not None:
                ns = self.causes.pop(cause)
                self.chains.pop(cause, None)
                nameless = cause._replace(key=None)
                self.causes[nameless] = self.causes.get(nameless, 0) + ns

    def ways(self) -> dict[Cause, Chain]:
        """The chain by which most of each cause's time came."""
        return {
            cause: max(chains, key=lambda chain: (chains[chain], -len(chain)))
            for cause, chains in self.chains.items()
            if chains
        }
