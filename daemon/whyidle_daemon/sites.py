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


_ROLES = {
    # http.client (so urllib, urllib3, requests), httpcore (httpx), redis: waiting for the head of an answer
    "_read_status": "request",
    "getresponse": "request",
    "_receive_response_headers": "request",
    "read_response": "request",
    "_receive_response_body": "answer",
    "do_handshake": "connect",
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
        place = Place(site.function[:MAX_TEXT], site.file[:MAX_TEXT], site.line, sample.loop, role_of(site))
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


def role_of(site: Site) -> str:
    """What the innermost library frame that is known does, inside the user's own code.

    ``request``: awaits the head of an answer; ``answer``: the rest of it; ``connect``: shakes hands;
    ``subprocess``: waits for a child; ``work``: waits to be given work or for a thread to end, which is no
    wait for a lock that somebody holds. Empty: anything else.
    """
    for frame in site.stack[:MAX_FRAMES]:
        # "function (file:line)"; no function has a space in its name.
        function, _, where = frame.partition(" (")
        function, file = function.rsplit(".", 1)[-1], where.rpartition(":")[0]
        if file == site.file and function == site.function.rsplit(".", 1)[-1]:
            break
        if file.endswith("/subprocess.py"):
            return "subprocess"
        if "/multiprocessing/" in file or (file.endswith(_WORK_FILES) and function in _WORK_FUNCTIONS):
            return "work"
        if function in _ROLES:
            return _ROLES[function]
    return "work" if site.file.endswith(_WORK_FILES) else ""
