"""Which waits are stalls, when they begin and when they are over: pure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon import stall_watch
from whyidle_daemon.facts import AwaitingTasks, LoopTasks, Site, StackSample
from whyidle_daemon.recent import Recent
from whyidle_daemon.stall_watch import StallWatch
from whyidle_daemon.stalls import (
    MAX_CANDIDATES,
    MAX_WATCHED,
    Crowd,
    StallTracker,
    candidates,
    leading,
    may_stall,
)
from whyidle_daemon.states import SELECTORS
from whyidle_probes.events import NO_PEER, NO_SYSCALL, Glance, Thread, Wait

S = 1_000_000_000


def thread(state: Wait, since_s: float, tid: int = 10, pid: int = 10) -> Thread:
    return Thread(
        *(
            pid,
            tid,
            1,
            0,
            0,
            int(since_s * S),
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            state,
            0,
            -1,
            NO_PEER,
            "x",
            (0,) * 32,
            (0,) * 32,
        )
    )


def test_reported_once_at_the_threshold_and_once_at_the_end() -> None:
    """A wait is reported when it crosses the threshold, not while it lasts, and once when it is over."""
    tracker = StallTracker()
    waiting = thread(Wait.TCP, 5)
    assert tracker.update([waiting], int(5.9 * S), S, ()) == []
    (began,) = tracker.update([waiting], int(6.1 * S), S, ())
    assert (began.duration_ns, began.ended) == (int(1.1 * S), False)
    assert tracker.update([waiting], 9 * S, S, ()) == []
    (ended,) = tracker.update([thread(Wait.RUNNING, 8.5)], 9 * S, S, ())
    assert (ended.thread, ended.duration_ns, ended.ended) == (waiting, int(3.5 * S), True)
    assert tracker.update([thread(Wait.RUNNING, 8.5)], 10 * S, S, ()) == []


def test_a_thread_that_is_gone_ends_its_stall() -> None:
    """A stalled thread that ends, or is no longer known, closes its stall."""
    tracker = StallTracker()
    tracker.update([thread(Wait.TCP, 1)], 3 * S, S, ())
    (ended,) = tracker.update([], 4 * S, S, ())
    assert ended.ended


@pytest.mark.parametrize("state", [Wait.EPOLL, Wait.POLL, Wait.LISTEN, Wait.SLEEP, Wait.SIGNAL, Wait.RUNNING])
def test_waiting_for_demand_is_no_stall(state: Wait) -> None:
    """Loops in their selector, servers in accept, sleepers and running threads are never reported."""
    assert StallTracker().update([thread(state, 1)], 100 * S, S, ()) == []


def test_idle_workers_are_no_stall_but_a_driver_is() -> None:
    """A worker that waits on a lock waits for work; a main thread or an engine's driver is held up by it."""
    worker = thread(Wait.FUTEX, 1, tid=11)
    assert StallTracker().update([worker], 100 * S, S, ()) == []
    assert len(StallTracker().update([worker], 100 * S, S, {11})) == 1
    assert len(StallTracker().update([thread(Wait.FUTEX, 1)], 100 * S, S, ())) == 1


def glance(state: Wait, since_s: float, tid: int, pid: int = 10) -> Glance:
    return Glance(pid, tid, int(since_s * S), 0, 0, state, NO_SYSCALL, -1, NO_PEER, 0)


def brief(thread: Glance, target: int = 1) -> tuple[int, int, int, int, int, int]:
    return thread.pid, thread.tid, target, thread.last_ns, thread.end_ns, thread.state


def test_a_pool_of_idle_workers_hides_no_stall() -> None:
    """However many threads wait for work, and however long, the one that may be stalled is watched."""
    idle = [glance(Wait.FUTEX, 1, tid) for tid in range(100, 400)]
    hung = glance(Wait.TCP, 50, 20)
    crowd = Crowd(())
    assert list(crowd.passing([*idle, hung])) == [*idle, hung]
    assert candidates(map(brief, [*idle, hung]), 1, ()) == [(20, 50 * S)]
    assert crowd.watched[0] == 20
    assert len(crowd.watched) == MAX_WATCHED


def test_of_too_many_the_longest_are_kept() -> None:
    """In order of how long they wait; threads that ended, and those of others, are passed over."""
    waiting = [glance(Wait.TCP, 1000 - n, 1000 + n) for n in range(MAX_CANDIDATES + 50)]
    gone = glance(Wait.TCP, 1, 5)._replace(end_ns=3)
    crowd = Crowd(())
    assert len(list(crowd.passing([gone, *waiting]))) == len(waiting)
    longest = sorted(waiting, key=lambda thread: thread.last_ns)
    assert crowd.watched == [thread.tid for thread in longest[:MAX_WATCHED]]
    found = candidates([brief(gone), brief(glance(Wait.TCP, 1, 6), 2), *map(brief, waiting)], 1, ())
    assert found == [(thread.tid, thread.last_ns) for thread in longest[:MAX_CANDIDATES]]


@pytest.mark.parametrize("state", list(Wait))
@pytest.mark.parametrize("tid", [10, 11, 12])
def test_candidates_are_what_may_stall(state: Wait, tid: int) -> None:
    """The quick rule for all threads of the host is the rule: of a leader, a driver and a worker."""
    thread = glance(state, 1, tid)
    loop = state in SELECTORS and leading(thread, {11})  # is one if a task of it awaits an answer
    assert bool(candidates([brief(thread)], 1, {11})) == (may_stall(thread, {11}) or loop)


def test_idle_loops_hide_no_stall() -> None:
    """However many processes sleep in their selector, and however long, what may be stalled comes first."""
    idle = [glance(Wait.EPOLL, 1, pid, pid=pid) for pid in range(100, 100 + 2 * MAX_CANDIDATES)]
    hung = glance(Wait.TCP, 50, 20)
    found = candidates(map(brief, [*idle, hung]), 1, ())
    assert found[0] == (20, 50 * S)
    assert len(found) == MAX_CANDIDATES + 1


SITE = Site("search", "/app/agent.py", 4, ("search (/app/agent.py:4)",))


def told_of(
    waits: Thread, sample: StackSample, loop: LoopTasks, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """What is told of a thread that waits for 3 s, when that was read last of one with its number."""
    kernel = SimpleNamespace(
        engines=lambda _: [],
        briefs=lambda: [(waits.pid, waits.tid, 1, waits.last_ns, 0, waits.state)],
        thread=lambda _: waits,
        glance=lambda _: None,
    )
    stacks, loops = Recent[StackSample](), Recent[LoopTasks]()
    stacks.put(sample)
    loops.put(loop)
    sampler = SimpleNamespace(latest=stacks.get, latest_loop=loops.get)
    proc = SimpleNamespace(thread_name=lambda *_: "its own")
    monkeypatch.setattr(stall_watch, "monotonic_ns", lambda: waits.last_ns + 3 * S)
    watch = StallWatch(1, cast(Any, kernel), cast(Any, proc), cast(Any, sampler))
    return [(one.thread, one.function) for one in watch.changed(S, 0)]


@pytest.mark.parametrize(
    ("pid", "since_s", "told"),
    [
        (10, 5, ("worker", "search")),
        (10, 4, ("worker", None)),  # it was read in an earlier wait: that is its name
        (10, 2, ("its own", None)),  # before this thread began
        (11, 5, ("its own", None)),
        (11, 4, ("its own", None)),
    ],
)
def test_a_stall_is_not_told_with_what_another_thread_was(
    pid: int, since_s: float, told: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is used again, in this process or in one that is not Python's, brings nothing along."""
    sample = StackSample(pid, 12, int(since_s * S), SITE, thread="worker")
    waits = thread(Wait.TCP, 5, tid=12)._replace(first_ns=3 * S)
    assert told_of(waits, sample, LoopTasks(pid, 12, int(since_s * S)), monkeypatch) == [told]


@pytest.mark.parametrize(("pid", "stalls"), [(10, [("worker", "search")]), (11, [])])
def test_a_loop_is_not_held_up_by_what_another_awaited(
    pid: int, stalls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, of a loop's tasks."""
    task = AwaitingTasks("t", SITE, "socket", NO_PEER, 1, 5 * S, wanted=True)
    sample = StackSample(10, 10, 5 * S, SITE, thread="worker")
    loop = LoopTasks(pid, 10, 5 * S, (task,))
    assert told_of(thread(Wait.EPOLL, 5), sample, loop, monkeypatch) == stalls
