"""Which waits are stalls, when they begin and when they are over: pure."""

from __future__ import annotations

import pytest

from whyidle_daemon.stalls import MAX_CANDIDATES, MAX_WATCHED, Crowd, StallTracker
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


def test_a_pool_of_idle_workers_hides_no_stall() -> None:
    """However many threads wait for work, and however long, the one that may be stalled is watched."""
    idle = [glance(Wait.FUTEX, 1, tid) for tid in range(100, 400)]
    hung = glance(Wait.TCP, 50, 20)
    crowd = Crowd(())
    assert list(crowd.passing([*idle, hung])) == [*idle, hung]
    assert crowd.candidates == [(20, 50 * S)]
    assert crowd.watched[0] == 20
    assert len(crowd.watched) == MAX_WATCHED


def test_of_too_many_the_longest_are_kept() -> None:
    """In order of how long they wait; threads that ended are passed over."""
    waiting = [glance(Wait.TCP, 1000 - n, 1000 + n) for n in range(MAX_CANDIDATES + 50)]
    crowd = Crowd(())
    gone = glance(Wait.TCP, 1, 5)._replace(end_ns=3)
    assert len(list(crowd.passing([gone, *waiting]))) == len(waiting)
    longest = sorted(waiting, key=lambda thread: thread.last_ns)[:MAX_CANDIDATES]
    assert crowd.candidates == [(thread.tid, thread.last_ns) for thread in longest]
