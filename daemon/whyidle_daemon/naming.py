"""Names for a report: the place of waits that were not sampled, and the host of an address.

Nothing here changes a sum: keys are mapped to keys, and what falls together is added up.

Not every wait is sampled: short ones are over too soon, and sampling has a rate limit. A wait without a
sample gets the place in which the same thread was seen in the same wait for the same peer, if nearly all of
the sampled time was in that one function; or, where short waits were sampled, nearly all of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from whyidle_daemon.chains import Chain
from whyidle_daemon.gaps import EngineActivity, ExplainedGap, Piece
from whyidle_daemon.hosts import Hosts
from whyidle_daemon.processes import Process
from whyidle_daemon.roots import Cause, RootPiece
from whyidle_daemon.sites import Place
from whyidle_daemon.states import SOCKET_WAITS
from whyidle_daemon.waits import WaitGroup, WaitKey

DOMINANT_SHARE = 0.9
SAMPLED_SHARE = 0.05  # of all the time; less than this speaks for itself only,
MIN_SAMPLES = 5  # unless it is this many: they fall at random, and seldom agree by chance


ShortPlaces = Mapping[WaitKey, Mapping[Place, int]]
"""How many samples of waits too short for slices were in which place, by a key without a place."""


def dominant_places(groups: Iterable[WaitGroup], short: ShortPlaces) -> Callable[[WaitKey], WaitKey]:
    """A function that gives keys without a place the one that their thread, wait and peer mostly had."""
    sums: dict[WaitKey, dict[Place | None, int]] = {}
    samples: dict[WaitKey, dict[Place | None, int]] = {}
    groups = list(groups)
    placed = {group.key._replace(place=None) for group in groups if group.key.place is not None}
    placed.update(short)
    for group in groups:
        alike = group.key if group.key.place is None else group.key._replace(place=None)
        if alike not in placed:  # nobody knows a place for it: of most threads of a crowd
            continue
        places = sums.setdefault(alike, {})
        places[group.key.place] = places.get(group.key.place, 0) + group.total_ns
        counts = samples.setdefault(alike, {})
        counts[group.key.place] = counts.get(group.key.place, 0) + group.count
    dominant: dict[WaitKey, WaitKey] = {}
    for key, seen_in in short.items():
        counts = samples.get(key, {})
        merged = {
            place: counts.get(place, 0) + seen_in.get(place, 0) for place in {*counts, *seen_in} if place
        }
        most = max(merged, key=lambda place: (merged[place], str(place)))
        alike_best = sum(n for place, n in merged.items() if place.where[:2] == most.where[:2])
        if alike_best >= max(MIN_SAMPLES, DOMINANT_SHARE * sum(merged.values())):
            dominant[key] = key._replace(place=most)
    for key, places in sums.items():
        total = sum(places.values())
        sampled = total - places.pop(None, 0)
        best = max(places, key=lambda place: (places[place], str(place)), default=None)
        if best is None:
            continue
        # A loop of two lines is one place to whoever has to mend it: the function decides.
        same = [p for p in places if p is not None and p.where[:2] == best.where[:2]]
        line = sum(places[place] for place in same)
        seen = sum(samples[key][place] for place in same)
        enough = line >= SAMPLED_SHARE * total or seen >= MIN_SAMPLES
        if key not in dominant and line >= DOMINANT_SHARE * sampled and enough:
            dominant[key] = key._replace(place=best)
    return lambda key: dominant.get(key, key)


def _order(key: WaitKey) -> tuple[Any, ...]:
    """Any order that does not depend on which record came first, so that ties have one outcome."""
    return (key.process.pid, key.process.start_ns, *key[1:6], str(key.place))


class Naming:
    """The names of everything that one report shows."""

    def __init__(self, groups: Mapping[WaitKey, WaitGroup], hosts: Hosts, short: ShortPlaces) -> None:
        self._groups = groups
        self._hosts = hosts
        self._short = short
        self.placed = dominant_places(groups.values(), short)
        self._first: dict[WaitKey, int] = {}
        for key, group in groups.items():
            if key.family and group.first_ns:
                alike = key._replace(place=None)
                self._first[alike] = min(self._first.get(alike, group.first_ns), group.first_ns)

    @property
    def known(self) -> Iterable[WaitGroup]:
        """The groups as they were recorded."""
        return self._groups.values()

    def key(self, key: WaitKey) -> WaitKey:
        """The same thread, wait and peer, with place and host as far as they are known."""
        if key.host is None and key.family:
            since = self._first.get(key._replace(place=None), 0)
            host, path = self._hosts.of(key.process, (key.family, key.remote, key.port), since)
            return self.placed(key)._replace(host=host, path=path)
        return self.placed(key)

    def groups(self) -> dict[WaitKey, WaitGroup]:
        """The groups under their names; those whose names fall together are one."""
        named: dict[WaitKey, WaitGroup] = {}
        for key in sorted(self._groups, key=_order):
            group, name = self._groups[key], self.key(key)
            if name not in named:
                named[name] = group if name == key else group.copy()
                named[name].key = name
            else:
                if named[name] is self._groups.get(name):
                    named[name] = named[name].copy()
                named[name].absorb(group)
        for key in sorted(self._short, key=_order):
            # What was too short for slices is in the thread's totals alone: a group without time names it.
            name = self.placed(key)
            if name.place is not None and name not in named and key.wait not in SOCKET_WAITS:
                named[name] = WaitGroup(name)
            if name in named:
                named[name] = named[name].copy() if named[name] is self._groups.get(name) else named[name]
                named[name].short_samples += sum(self._short[key].values())
        return named

    def activity(self, engine: EngineActivity) -> EngineActivity:
        """An engine's idle time under these names."""
        causes = self._causes(engine.causes)
        beyond: dict[WaitKey, int] = {}
        for key, ns in engine.beyond_longest.items():
            beyond[self.key(key)] = beyond.get(self.key(key), 0) + ns
        gaps = tuple(
            gap._replace(pieces=self._pieces(gap), roots=tuple(self._root(root) for root in gap.roots))
            for gap in engine.gaps
        )
        named = engine._replace(causes=causes, beyond_longest=beyond, gaps=gaps)
        if engine.roots is None:
            return named
        chains: dict[Cause, Chain] = {}
        for cause in sorted(engine.chains or {}, key=lambda cause: -(engine.roots or {}).get(cause, 0)):
            chains.setdefault(self._cause(cause), self._chain((engine.chains or {})[cause]))
        return named._replace(roots=self._causes(engine.roots), chains=chains)

    def _causes(self, causes: Mapping[Cause, int]) -> dict[Cause, int]:
        named: dict[Cause, int] = {}
        for cause, ns in causes.items():
            name = self._cause(cause)
            named[name] = named.get(name, 0) + ns
        return named

    def _cause(self, cause: Cause) -> Cause:
        return cause._replace(key=self._cause_key(cause.process, cause.tid, cause.wait, cause.key))

    def _chain(self, chain: Chain) -> Chain:
        return tuple(
            link._replace(key=self._cause_key(link.process, link.tid, link.wait, link.key)) for link in chain
        )

    def _root(self, piece: RootPiece) -> RootPiece:
        return piece._replace(cause=self._cause(piece.cause), chain=self._chain(piece.chain))

    def _pieces(self, gap: ExplainedGap) -> tuple[Piece, ...]:
        return tuple(
            piece._replace(key=self._cause_key(gap.process, gap.tid, piece.wait, piece.key))
            for piece in gap.pieces
        )

    def _cause_key(self, process: Process, tid: int, wait: int, key: WaitKey | None) -> WaitKey | None:
        if key is not None:
            return self.key(key)
        if wait in SOCKET_WAITS:
            return None
        # Waits too short for a slice: of what is no socket all are alike.
        alike = WaitKey(process, tid, wait)
        placed = self.placed(alike)
        return placed if placed is not alike else None
