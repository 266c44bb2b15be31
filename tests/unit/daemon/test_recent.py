"""What was read of threads last is bounded, whatever a target does."""

from __future__ import annotations

import pytest
from timeline import PID, START

from whyidle_daemon.facts import AwaitingTasks, LoopTasks, Site, StackSample
from whyidle_daemon.loop_reader import MAX_ALIKE, MAX_STACK, site_of
from whyidle_daemon.pystack import Frame
from whyidle_daemon.recent import ROOM, Recent
from whyidle_daemon.sites import MAX_TEXT
from whyidle_probes.events import NO_PEER, Thread

HOSTILE = tuple(Frame("\U0001f600" * 512, f"/{n}" + "\U0001f600" * 4096, n) for n in range(128))


def sample(tid: int, site: Site) -> StackSample:
    return StackSample(PID, tid, START, site)


def got(recent: Recent[StackSample], tid: int, **fields: int) -> StackSample | None:
    thread = Thread._make([PID, *[0] * 23])  # only who it is counts
    return recent.get(thread._replace(tid=tid, **fields))


def test_no_text_is_longer_than_a_report_has_it() -> None:
    """Whatever a target calls its functions and files."""
    site = site_of(HOSTILE)
    assert site is not None
    assert len(site.stack) == MAX_STACK
    assert max(map(len, (site.function, site.file, *site.stack))) == MAX_TEXT
    assert site_of((Frame("f", "/app/agent.py", None),)) == Site(
        "f", "/app/agent.py", None, ("f (/app/agent.py:?)",)
    )


def test_threads_that_come_and_go_take_bounded_room() -> None:
    """Their texts together are no more than there is room for, or one alone."""
    stacks, loops = Recent[StackSample](), Recent[LoopTasks]()
    site = site_of(HOSTILE)
    assert site is not None
    task = AwaitingTasks("t", site, "future", NO_PEER, 1, START)
    for tid in range(1, 5001):
        stacks.put(sample(tid, site))
        loops.put(LoopTasks(PID, tid, START, (task,) * (1 + tid % MAX_ALIKE)))
        assert stacks.size <= ROOM
        assert loops.size <= ROOM or len(loops) == 1
    assert len(stacks) == ROOM // (stacks.size // len(stacks))
    for tid in range(1, 5001):
        stacks.pop(tid)
        loops.pop(tid)
    assert (stacks.size, loops.size, len(stacks), len(loops)) == (0, 0, 0, 0)


def test_short_ones_are_bounded_too() -> None:
    """An entry takes room besides its texts."""
    recent = Recent[StackSample]()
    for tid in range(20_000):
        recent.put(sample(tid, Site("", "", None, ())))
    assert len(recent) < 2500


def test_who_has_ended_goes_first() -> None:
    """A hang that was read long ago stays known, although many were read since."""
    recent = Recent[StackSample](room=10_000)
    site = Site("hang", "/app/agent.py", 1, ("x" * 500,))
    recent.put(sample(1, site))
    for tid in range(2, 100):
        recent.put(sample(tid, site))
        assert got(recent, tid) is not None
        recent.ended(tid)
    assert got(recent, 1) == sample(1, site)
    assert got(recent, 99) is not None
    assert got(recent, 2) is None
    recent.ended(1000)


def test_the_latest_counts() -> None:
    """One of a thread."""
    recent = Recent[StackSample]()
    first, second = (Site(name, "/app/agent.py", 1, (name,)) for name in ("one", "three"))
    recent.put(sample(1, first))
    size = recent.size
    recent.put(sample(1, second))
    assert got(recent, 1) == sample(1, second)
    assert (len(recent), recent.size) == (1, size + 4)
    recent.pop(1)
    recent.pop(1)
    assert (got(recent, 1), recent.size) == (None, 0)


@pytest.mark.parametrize(
    ("fields", "known"),
    [({}, True), ({"first_ns": START}, True), ({"pid": PID + 1}, False), ({"first_ns": START + 1}, False)],
)
def test_who_had_the_number_before_is_somebody_else(fields: dict[str, int], known: bool) -> None:
    """A thread of another process, or one that began after the reading."""
    recent = Recent[StackSample]()
    recent.put(sample(1, Site("f", "/app/agent.py", 1, ())))
    assert (got(recent, 1, **fields) is not None) == known
