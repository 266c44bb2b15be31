"""Which code a wait was in: samples of stacks, matched with the waits during which they were read.

A sample is read while its thread sleeps and names the start of that wait; the slice comes when the wait has
ended. Samples are kept until then. No slice comes of a wait that was too short: such samples are counted by
thread, wait and peer, and stand for all the short waits of their kind. All stores are bounded: a target
decides how many functions it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from whyidle_daemon.facts import Site, StackSample
from whyidle_probes.events import Peer, Wait

MAX_SAMPLES = 8192
MAX_OF_A_THREAD = 64
MAX_SHORT = 4096
MAX_PLACES_OF_SHORT = 64
MAX_PLACES = 2048
MAX_FRAMES = 128
MAX_TEXT = 500


_ROLES = {
    # http.client (so urllib, urllib3, requests), httpcore (httpx), redis: waiting for the head of an answer
    "_read_status": "request",
    "getresponse": "request",
    "_receive_response_headers": "request",
    "read_response": "request",
    "_receive_response_body": "answer",
    "do_handshake": "connect",
    "ClientResponse.start": "request",  # aiohttp
}
_WORK_FILES = ("/threading.py", "/queue.py", "/concurrent/futures/_base.py", "/concurrent/futures/thread.py")
_WORK_FUNCTIONS = frozenset(
    "wait wait_for join _wait_for_tstate_lock _join _worker get put result as_completed shutdown".split()
)


class Place(NamedTuple):
    """A line of the target's own code; ``loop`` as in :class:`~whyidle_daemon.facts.StackSample`.

    ``role`` is what the library that it called was doing, see :func:`role_of`.
    """

    function: str
    file: str
    line: int | None
    loop: str = ""
    role: str = ""

    @property
    def where(self) -> tuple[str, str, int | None]:
        """The line, whatever happened there."""
        return self.function, self.file, self.line


class Short(NamedTuple):
    """What short waits have in common: a thread, what it slept in, and whom it waited for."""

    pid: int
    tid: int
    wait: int
    remote: bytes
    port: int
    family: int


class ShortSamples(NamedTuple):
    """Samples of such waits: how many in each place. ``since_ns`` is when the first of the waits began."""

    of: Short
    since_ns: int
    places: dict[Place, int]


class _Sample(NamedTuple):
    since_ns: int
    place: Place
    wait: int
    peer: Peer


class Sites:
    """Samples whose wait has not ended, counts of the others, and one whole stack of every place."""

    def __init__(self, samples: int = MAX_SAMPLES, places: int = MAX_PLACES) -> None:
        self._samples: dict[tuple[int, int], list[_Sample]] = {}
        self._count = 0
        self._short: dict[Short, ShortSamples] = {}
        self._stacks: dict[Place, tuple[str, ...]] = {}
        self._limits = samples, places
        self.seen = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sample: StackSample) -> None:
        """Keep a sample; the latest of a wait counts."""
        self.seen += 1
        place = self.place(sample.site, sample.loop)
        if place is None:
            return
        thread = sample.pid, sample.tid
        kept = self._samples.setdefault(thread, [])
        if kept and kept[-1].since_ns == sample.since_ns and sample.wait != Wait.RUNNING:
            kept.pop()
            self._count -= 1
        kept.append(_Sample(sample.since_ns, place, sample.wait, sample.peer))
        self._count += 1
        if len(kept) > MAX_OF_A_THREAD:  # its slices are late by a hundred waits: there are none
            self._shorten(thread, kept[: MAX_OF_A_THREAD // 2])
        elif self._count > self._limits[0]:
            for thread in list(self._samples):  # the latest of a thread may be of a wait that lasts
                self._shorten(thread, self._samples[thread][:-1])
            if self._count > self._limits[0]:
                thread = next(iter(self._samples))
                self._shorten(thread, self._samples[thread])

    def place(self, site: Site, loop: str) -> Place | None:
        """The place of a site, whose stack is kept; ``None`` when there are too many."""
        if not site.function:
            return None
        place = Place(site.function[:MAX_TEXT], site.file[:MAX_TEXT], site.line, loop, role_of(site))
        if place not in self._stacks:
            if len(self._stacks) >= self._limits[1]:
                return None
            self._stacks[place] = _clipped(site)
        return place

    def take(self, pid: int, tid: int, since_ns: int) -> Place | None:
        """Where a wait was that has ended, ``None`` without a sample."""
        kept = self._samples.get((pid, tid), ())
        found = next((sample for sample in kept if sample.since_ns == since_ns), None)
        if found is None:
            return None
        self._drop((pid, tid), [found])
        return found.place

    def peek(self, pid: int, tid: int, since_ns: int) -> Place | None:
        """Where a wait is that lasts."""
        kept = self._samples.get((pid, tid), ())
        return next((sample.place for sample in kept if sample.since_ns == since_ns), None)

    def short(self, lasts: Callable[[int, int, int], bool]) -> Iterator[ShortSamples]:
        """Samples of waits too short for a slice; ``lasts`` says of (pid, tid, since_ns) which last.

        Changes nothing.
        """
        found = {of: each._replace(places=dict(each.places)) for of, each in self._short.items()}
        for (pid, tid), kept in self._samples.items():
            for sample in kept:
                if not lasts(pid, tid, sample.since_ns):
                    _count(found, pid, tid, sample)
        yield from found.values()

    def _shorten(self, thread: tuple[int, int], samples: list[_Sample]) -> None:
        samples = list(samples)
        self._drop(thread, samples)
        for sample in samples:
            _count(self._short, *thread, sample)
        if len(self._short) > MAX_SHORT:
            fewest = sorted(self._short.values(), key=lambda each: sum(each.places.values()))
            for each in fewest[: MAX_SHORT // 2]:
                del self._short[each.of]

    def _drop(self, thread: tuple[int, int], samples: list[_Sample]) -> None:
        gone = {sample.since_ns for sample in samples}
        kept = [sample for sample in self._samples[thread] if sample.since_ns not in gone]
        self._count -= len(self._samples[thread]) - len(kept)
        if kept:
            self._samples[thread] = kept
        else:
            del self._samples[thread]

    def stack(self, place: Place | None) -> tuple[str, ...]:
        """An example of the frames of a place, innermost first."""
        return self._stacks.get(place, ()) if place is not None else ()


def _count(sums: dict[Short, ShortSamples], pid: int, tid: int, sample: _Sample) -> None:
    peer = sample.peer
    of = Short(pid, tid, sample.wait, peer.remote, peer.remote_port, peer.family)
    places = sums.setdefault(of, ShortSamples(of, sample.since_ns, {})).places
    if sample.place in places or len(places) < MAX_PLACES_OF_SHORT:
        places[sample.place] = places.get(sample.place, 0) + 1


def _clipped(site: Site) -> tuple[str, ...]:
    return tuple(frame[:MAX_TEXT] for frame in site.stack[:MAX_FRAMES])


def role_of(site: Site) -> str:
    """What the innermost library frame that is known does, inside the user's own code.

    ``request``: awaits the head of an answer; ``answer``: the rest of it; ``connect``: shakes hands;
    ``subprocess``: waits for a child; ``work``: waits to be given work or for a thread to end, which is no
    wait for a lock that somebody holds. Empty: anything else.
    """
    for frame in site.stack[:MAX_FRAMES]:
        # "function (file:line)"; no function has a space in its name.
        function, _, where = frame.partition(" (")
        qualified, function, file = function, function.rsplit(".", 1)[-1], where.rpartition(":")[0]
        if file == site.file and function == site.function.rsplit(".", 1)[-1]:
            break
        if file.endswith("/subprocess.py"):
            return "subprocess"
        if "/multiprocessing/" in file or (file.endswith(_WORK_FILES) and function in _WORK_FUNCTIONS):
            return "work"
        if role := _ROLES.get(qualified) or _ROLES.get(function):
            return role
    return "work" if site.file.endswith(_WORK_FILES) else ""
