"""Who drove a GPU beside a gap, where the GPU's samples are coarser than its work."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from whyidle_daemon.chains import MAX_STEPS, Segment, Walker
from whyidle_daemon.facts import EngineSpan, Serving
from whyidle_daemon.gaps import IdleSums
from whyidle_daemon.gpus.drivers import Drivers
from whyidle_daemon.gpus.idle import Way, explain_idleness
from whyidle_daemon.gpus.spans import idleness, segments
from whyidle_daemon.processes import Process
from whyidle_daemon.timelines import Record
from whyidle_daemon.wakes import Wakes
from whyidle_probes.events import Start, Thread, Wait

MS = 1_000_000
PERIOD = 100
MAIN, FIRST, SECOND = 10, 11, 12
SERVER = Process(MAIN, 0, provisional=False)


def drivers_of(
    busy: list[int], lives: dict[int, tuple[int, int]], finer: Sequence[EngineSpan] = ()
) -> list[tuple[int, int]]:
    """For each gap of samples that say so many ms: its driver, and until when it was asked for (ms).

    The server's main thread waits for callers all the time; ``lives`` are threads of one call each. ``finer``
    are spans of another source.
    """
    spans = [
        EngineSpan("gpu", n * PERIOD * MS, (n + 1) * PERIOD * MS, ms * MS, 0, PERIOD * MS)
        for n, ms in enumerate(busy)
    ]
    spans += finer
    lines = {MAIN: [Record(0, 2000 * MS, 0, int(Wait.POLL), None)]}
    born = {tid: (begin * MS, end * MS) for tid, (begin, end) in lives.items()}
    asked: list[tuple[int, int]] = []

    def lines_of(tid: int) -> list[Record]:
        return lines.get(tid, [])

    def walk(start_ns: int, end_ns: int, who: tuple[int, int], is_open: bool) -> list[Segment]:
        asked.append((who[1], end_ns // MS))
        return []

    drivers = Drivers(lambda process: None, lambda: {MAIN: [MAIN]}, lines_of, lambda pid: born)
    last_ns = len(busy) * PERIOD * MS
    way = Way(drivers, lines_of, walk)
    explain_idleness(IdleSums(), idleness(segments(spans)), lambda start, end: SERVER, way, last_ns)
    return asked


@pytest.mark.parametrize("begin", [402, 440, 459, 484])
def test_a_burst_shorter_than_a_period(begin: int) -> None:
    """Wherever in its period the GPU worked for 14 ms: who drove it then ends the gap before it."""
    call = begin, begin + 14
    found = drivers_of([0, 0, 0, 0, 14, 0, 0, 0], {FIRST: call})
    assert list(dict.fromkeys(found)) == [(FIRST, call[1]), (FIRST, 800)]  # the second gap lasts


def test_each_burst_has_its_own_driver() -> None:
    """A gap of a few periods between two calls: the second one ended it."""
    found = drivers_of([0, 0, 14, 0, 0, 0, 14, 0, 0], {FIRST: (280, 294), SECOND: (684, 698)})
    assert found == [(FIRST, 294), (SECOND, 698), (SECOND, 900)]


def test_the_work_after_a_gap_is_not_that_behind_the_next_one() -> None:
    """A finer source knows that a gap of 20 ms follows: the longer call after it ended that one."""
    finer = [
        EngineSpan("gpu", 200 * MS, 220 * MS, 0, 0, 0),
        EngineSpan("gpu", 220 * MS, 290 * MS, 70 * MS, 0, 0),
    ]
    found = drivers_of([0, 30], {FIRST: (150, 162), SECOND: (220, 290)}, finer)
    assert found[0] == (FIRST, 162)


def roots_of_callers(
    lives: dict[int, tuple[int, int]], busy: list[int], tick: int = 100_000
) -> dict[tuple[int, bool], int]:
    """Idle ms by thread, and whether it waited to be called. Each period has so many ms of work in it.

    The server's main thread makes a thread for each call, and waits for the next one at all other times, for
    ``tick`` ms at once.
    """
    lines: list[Record] = []

    def listen(start: int, end: int) -> None:
        for begin in range(start, end, tick):
            lines.append(Record(begin * MS, (min(begin + tick, end) - begin) * MS, 0, int(Wait.POLL), None))

    def find(pid: int, ns: int) -> Process:
        return SERVER

    wakes = Wakes(find)
    wakes.serves(Serving(MAIN, 8000))
    free = 10
    for tid, (begin, end) in sorted(lives.items(), key=lambda life: life[1]):
        wakes.start(Start(1, begin * MS, MAIN, tid, MAIN, MAIN))
        wakes.exit(Thread._make([MAIN, tid, *[0] * 22])._replace(first_ns=begin * MS, end_ns=end * MS))
        listen(free, begin)
        free = begin
    listen(free, free + 5000)

    def lines_of(tid: int) -> list[Record]:
        return lines if tid == MAIN else []

    walker = Walker(wakes, find, lines_of)
    drivers = Drivers(lambda process: None, lambda: {MAIN: [MAIN]}, lines_of, wakes.lives)
    spans = [
        EngineSpan("gpu", n * PERIOD * MS, (n + 1) * PERIOD * MS, ms * MS, 0, PERIOD * MS)
        for n, ms in enumerate(busy)
    ]
    sums = IdleSums()
    way = Way(drivers, lines_of, walker.walk)
    explain_idleness(sums, idleness(segments(spans)), lambda start, end: SERVER, way)
    found: dict[tuple[int, bool], int] = {}
    for cause, ns in sums.roots.causes.items():
        found[cause.tid, cause.nobody] = found.get((cause.tid, cause.nobody), 0) + ns // MS
    assert sum(sums.roots.causes.values()) == sum(PERIOD - ms for ms in busy) * MS
    return found


def test_idle_time_after_the_end_of_the_last_caller() -> None:
    """The GPU worked at times for one that ended: from then on the server waited to be called."""
    found = roots_of_callers({FIRST: (10, 130)}, [40] * 2)
    assert found == {(MAIN, False): 10, (FIRST, False): 40, (MAIN, True): 70}


@pytest.mark.parametrize("change", [240, 250, 260])
def test_callers_one_after_another_are_no_lack_of_demand(change: int) -> None:
    """Whichever of two drove for longer: there was always one but for 10 ms at either end."""
    found = roots_of_callers({FIRST: (10, change), SECOND: (change + 2, 490)}, [40] * 5)
    assert found[FIRST, False] + found[SECOND, False] >= 270
    assert found.get((MAIN, True), 0) <= 15


@pytest.mark.parametrize("length", [23, 50, 90])
def test_many_short_callers_are_no_lack_of_demand(length: int) -> None:
    """However many there are in half a second: the server was not called between them and after the last."""
    lives = {100 + n: (10 + n * length, 10 + (n + 1) * length - 1) for n in range(480 // length)}
    found = roots_of_callers(lives, [40] * 5)
    assert found.get((MAIN, True), 0) <= 500 - max(end for _, end in lives.values()) + len(lives)


@pytest.mark.parametrize("begin", [402, 440, 459, 484])
@pytest.mark.parametrize("then", [[], [0, 0, 0, 14, 0, 0], [90, 90], [100, 100]])
def test_a_thread_that_has_ended_explains_no_idle_time(begin: int, then: list[int]) -> None:
    """A call shorter than a sample's period: what the gap has of time after it is not of its thread.

    Whatever comes next: nothing, another short call, work with pauses, or without any.
    """
    lives = {FIRST: (begin, begin + 14)}
    if then:
        lives[SECOND] = (750 + begin - 400, 750 + begin - 386) if not then[0] else (600, 795)
    found = roots_of_callers(lives, [0, 0, 0, 0, 14, 0, *then])
    assert found.get((FIRST, False), 0) <= 14
    assert found[MAIN, True] >= 400


def test_what_is_too_far_to_walk_is_not_the_next_callers() -> None:
    """The next call comes a minute later, and the server looks for it a hundred times a second."""
    lives = {FIRST: (402, 416), SECOND: (60402, 60416)}
    busy = [0, 0, 0, 0, 14, *[0] * 599, 14, 0]
    found = roots_of_callers(lives, busy, tick=10)
    # From the next call the walk comes to its limit, so the start of that gap has no cause.
    unknown = 60402 - 457 - 10 * MAX_STEPS
    assert found[FIRST, False] <= 14
    assert found[SECOND, False] <= unknown + 14 + 10
