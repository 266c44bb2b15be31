"""Which code a wait was in: samples of stacks, matched with the waits during which they were read.

A sample is read while its thread sleeps and names the start of that wait; the slice comes when the wait has
ended. Samples are kept until then. Both stores are bounded: a target decides how many functions it has.
"""

from __future__ import annotations

from typing import NamedTuple

from whyidle_daemon.facts import Site, StackSample

MAX_SAMPLES = 8192
MAX_PLACES = 2048
MAX_FRAMES = 128
MAX_TEXT = 500


class Place(NamedTuple):
    """A line of the target's own code; ``loop`` as in :class:`~whyidle_daemon.facts.StackSample`."""

    function: str
    file: str
    line: int | None
    loop: str = ""


class Sites:
    """Samples whose wait has not ended, and one whole stack of every place."""

    def __init__(self, samples: int = MAX_SAMPLES, places: int = MAX_PLACES) -> None:
        self._samples: dict[tuple[int, int, int], Place] = {}
        self._stacks: dict[Place, tuple[str, ...]] = {}
        self._limits = samples, places
        self.seen = 0

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: StackSample) -> None:
        """Keep a sample; the latest of a wait counts."""
        self.seen += 1
        site = sample.site
        if not site.function:
            return
        place = Place(site.function[:MAX_TEXT], site.file[:MAX_TEXT], site.line, sample.loop)
        if place not in self._stacks:
            if len(self._stacks) >= self._limits[1]:
                return
            self._stacks[place] = _clipped(site)
        wait = (sample.pid, sample.tid, sample.since_ns)
        self._samples.pop(wait, None)
        self._samples[wait] = place
        if len(self._samples) > self._limits[0]:
            # The oldest: its slice was lost or is long past.
            del self._samples[next(iter(self._samples))]

    def take(self, pid: int, tid: int, since_ns: int) -> Place | None:
        """Where a wait was that has ended, ``None`` without a sample."""
        return self._samples.pop((pid, tid, since_ns), None)

    def peek(self, pid: int, tid: int, since_ns: int) -> Place | None:
        """Where a wait is that lasts."""
        return self._samples.get((pid, tid, since_ns))

    def stack(self, place: Place | None) -> tuple[str, ...]:
        """An example of the frames of a place, innermost first."""
        return self._stacks.get(place, ()) if place is not None else ()


def _clipped(site: Site) -> tuple[str, ...]:
    return tuple(frame[:MAX_TEXT] for frame in site.stack[:MAX_FRAMES])
