"""What event loops wait for: whose wait it is, the report's ``loops``, and that no sum depends on it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_schema import check
from timeline import MS, PID, START, Life, S, Step, at, born, infer, life, observe, peer, run

from whyidle_daemon.facts import AwaitingTasks, HostName, LoopTasks, Site
from whyidle_daemon.history.merge_loops import merged_loops
from whyidle_daemon.loop_objects import MAX_TASKS
from whyidle_daemon.loops import MAX_KEPT, MAX_ROWS, Loops, blamed
from whyidle_daemon.processes import Process
from whyidle_daemon.sites import Sites
from whyidle_probes.events import NO_PEER, Peer, Slice, Wait

HERE, THERE = peer("93.184.216.34", 443, 1), peer("198.51.100.7", 80, 2)


def task(
    function: str, kind: str = "socket", to: Peer = NO_PEER, number: int = 1, since: int = START, **more: Any
) -> AwaitingTasks:
    site = Site(function, "/app/agent.py", 1, (f"{function} (/app/agent.py:1)",))
    ports = (to.local_port,) if to.local_port else ()
    return AwaitingTasks(function, site, kind, to, number, since, ports, **more)


def selects(ns: int, woken_by: Peer = NO_PEER) -> Step:
    """A loop in its selector, read as whoever called asyncio.run."""
    return at(Step(Wait.EPOLL, ns, 0, woken_by), "<module>", 9, "waiting")


def readings(one: Life, *tasks: AwaitingTasks, reason: str = "", **more: Any) -> tuple[LoopTasks, ...]:
    """The same tasks in every wait of a thread's selector."""
    starts = [
        event.start_ns for event in one.events if isinstance(event, Slice) and event.state == Wait.EPOLL
    ]
    if one.thread.state == Wait.EPOLL:
        starts.append(one.thread.last_ns)
    number = sum(each.number for each in tasks)
    who = one.thread.pid, one.thread.tid
    return tuple(LoopTasks(*who, start, tasks, number, reason, **more) for start in starts)


A, B, TICK = task("a", to=HERE), task("b", to=THERE), task("tick", "timer")


@pytest.mark.parametrize(
    ("tasks", "woken_by", "function", "loop", "to"),
    [
        ([A, B, TICK], HERE, "a", "waiting", NO_PEER),  # who woke it is known, and whose socket that is
        ([A, B, TICK], THERE, "b", "waiting", NO_PEER),
        ([A, TICK], HERE, "a", "awaiting", NO_PEER),
        ([A._replace(number=2), TICK], HERE, "a", "waiting", NO_PEER),
        ([A, TICK], HERE._replace(local_port=9), None, "", NO_PEER),  # a socket that no task waits for
        ([A, TICK], NO_PEER, "a", "awaiting", HERE),  # a timer ended it, or it lasts
        ([A, B._replace(since_ns=START - 1)], NO_PEER, "b", "waiting", THERE),
        ([A._replace(wanted=True), B._replace(since_ns=START - 1)], NO_PEER, "a", "waiting", HERE),
        ([A._replace(inbound=True), B], NO_PEER, "b", "awaiting", THERE),
        ([A._replace(inbound=True)], NO_PEER, None, "", NO_PEER),  # demand, and nobody's wait
        ([TICK, task("main", "task", since=1)], NO_PEER, "tick", "waiting", NO_PEER),
        ([task("main", "task")], NO_PEER, None, "", NO_PEER),
        ([], NO_PEER, None, "", NO_PEER),
    ],
)
def test_whose_wait_it_is(
    tasks: list[AwaitingTasks], woken_by: Peer, function: str | None, loop: str, to: Peer
) -> None:
    """The socket that ended a wait says whose it was; else one that is waited for, the longest."""
    place, peer_of = blamed(LoopTasks(1, 1, START, tuple(tasks)), woken_by, Sites())
    assert (place and place.function, place.loop if place else "", peer_of) == (function, loop, to)


def in_a_gap(*steps: Step) -> list[Step]:
    return [infer(100 * MS), *steps, infer(100 * MS)]


def causes(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (row["state"], row["function"], row["peer"] and row["peer"]["port"], round(row["seconds"], 3))
        for row in report["idle_by_cause"]
    ]


def test_a_gap_is_put_down_to_the_tasks_that_the_loop_waits_for() -> None:
    """Three waits of a loop with two searches in flight: an answer, a timer, the other answer."""
    one = life(in_a_gap(selects(200 * MS, THERE), selects(100 * MS), selects(200 * MS, HERE)))
    tasks = A._replace(wanted=True), B, TICK
    report = observe(
        [one], (*readings(one, *tasks), HostName(PID, START, 2, HERE.remote[:4], "searx.example"))
    )
    check(report)
    assert causes(report) == [("network", "a", 443, 0.3), ("network", "b", 80, 0.2)]
    (gap,) = report["gaps"]
    assert [(c["function"], c["share"]) for c in gap["causes"]] == [("a", 0.6), ("b", 0.4)]
    assert gap["causes"][0]["peer"]["host"] == "searx.example"
    assert report["findings"] == []  # a loop that rightly waits is nobody's fault
    (thread,) = report["threads"]
    assert thread["states"]["event_loop"] == pytest.approx(0.5)  # and its own state is what it was


def test_a_gap_that_lasts_is_put_down_to_the_task_that_hangs() -> None:
    """Nothing ended the wait yet; whom it waits for is known all the same."""
    one = life([infer(100 * MS), selects(5 * S)], open_last=True)
    report = observe([one], readings(one, A, TICK))
    check(report)
    assert causes(report) == [("network", "a", 443, 5.0)]
    (loop,) = report["loops"]
    assert (loop["waiting_s"], loop["read_s"], loop["tasks_total"]) == (5.0, 5.0, 2)


def test_a_wait_that_a_thread_of_the_target_ended_is_this_ones() -> None:
    """The loop was woken by a worker: what the worker did before counts, not the socket beside it."""
    woken = selects(300 * MS)._replace(waker=PID + 1, waker_pid=PID)
    one = life(in_a_gap(woken))
    (slice_,) = (event for event in one.events if isinstance(event, Slice))
    one = one._replace(events=[e._replace(waker_syscall=1) if e is slice_ else e for e in one.events])
    worker = life([run(400 * MS)], tid=PID + 1, ended=True)
    report = observe([one, worker], (born(PID, 1, START), *readings(one, A)))
    check(report)
    assert causes(report)[0][:3] == ("running", None, None)


def test_a_wait_that_was_not_read_is_for_what_was_waited_for_before() -> None:
    """Until the socket answers: what comes then is nobody's, and so is what comes a second later."""
    steps = [selects(200 * MS), selects(100 * MS), selects(300 * MS, HERE), selects(150 * MS)]
    one = life(in_a_gap(*steps))
    first, *_ = readings(one, A)
    rows = causes(observe([one], (first,)))
    assert ("network", "a", 443, 0.6) in rows
    assert ("event_loop", "<module>", None, 0.15) in rows
    late = life(in_a_gap(selects(1100 * MS), selects(200 * MS)))
    first, *_ = readings(late, A)
    rows = causes(observe([late], (first,)))
    assert ("network", "a", 443, 1.1) in rows
    assert ("event_loop", "<module>", None, 0.2) in rows


def test_the_loops_of_a_report() -> None:
    """Tasks that are alike are one row; the times are the loop's, and the longest wait is one task's."""
    one = life([selects(200 * MS), run(50 * MS), selects(300 * MS), run(MS)])
    first, second = readings(one, A._replace(number=3), TICK)
    second = second._replace(tasks=(A._replace(number=2), TICK, task("main", "task")), total=4)
    (loop,) = observe([one], (first, second))["loops"]
    assert (loop["pid"], loop["tid"], loop["reason"], loop["tasks_total"]) == (PID, PID, None, 4)
    assert (loop["waiting_s"], loop["read_s"]) == (0.5, 0.5)
    rows = [
        (t["function"], t["waits_for"], t["count"], round(t["waited_s"], 3), round(t["longest_s"], 3))
        for t in loop["tasks"]
    ]
    assert rows == [
        ("a", "socket", 3, 0.5, 0.55),
        ("tick", "timer", 1, 0.5, 0.55),
        ("main", "task", 1, 0.3, 0.55),
    ]
    assert loop["tasks"][0]["peer"] == {"host": None, "address": "93.184.216.34", "port": 443}


def test_a_loop_whose_tasks_cannot_be_read() -> None:
    """It is unknown with a reason, and the connections are told."""
    one = life([selects(200 * MS), run(MS)])
    (loop,) = observe([one], readings(one, reason="tasks of Python 3.10", sockets=(HERE,)))["loops"]
    assert (loop["reason"], loop["tasks_total"], loop["tasks"]) == ("tasks of Python 3.10", None, [])
    assert [end["address"] for end in loop["sockets"]] == ["93.184.216.34"]


def test_stores_are_bounded() -> None:
    """Readings whose wait never ends, and tasks that are all different."""
    loops, process = Loops(), Process(PID, START, provisional=False)
    for n in range(10 * MAX_KEPT):
        loops.add(LoopTasks(PID, PID, START + n, (A,), 1))
    assert sum(loops.peek(PID, PID, START + n) is not None for n in range(10 * MAX_KEPT)) == MAX_KEPT
    for n in range(3 * MAX_ROWS):
        loops.add(LoopTasks(PID, PID, 2 * START + n, (task(f"f{n}"),), 1))
        assert loops.take(process, PID, 2 * START + n, MS)
    (loop,) = loops
    assert len(loop.rows) == MAX_ROWS


_awaiting = st.builds(
    task,
    st.sampled_from("fgh"),
    st.sampled_from(["socket", "timer", "task", "future"]),
    st.sampled_from([HERE, THERE, NO_PEER]),
    st.integers(1, 9),
    st.integers(1, START),
    inbound=st.booleans(),
    wanted=st.booleans(),
)
_steps = st.lists(
    st.one_of(
        st.builds(selects, st.integers(MS, S), st.sampled_from([NO_PEER, HERE, THERE])),
        st.builds(run, st.integers(1, S)),
        st.builds(infer, st.integers(1, S)),
    ),
    min_size=1,
    max_size=8,
)


@given(_steps, st.lists(_awaiting, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_tasks_wait_for_names_time_and_never_changes_a_sum(
    steps: list[Step], tasks: list[AwaitingTasks], open_last: bool
) -> None:
    """With and without readings: the same threads, engines and idle time of the gaps, and no finding more."""
    one = life(steps, open_last=open_last)
    told, without = observe([one], readings(one, *tasks)), observe([one])
    check(told)
    for part in ("threads", "engines", "target", "processes", "loss"):
        assert told[part] == without[part]
    assert [gap["duration_s"] for gap in told["gaps"]] == [gap["duration_s"] for gap in without["gaps"]]
    kinds = {finding["kind"] for finding in told["findings"]} - {"sequential_calls"}
    assert kinds <= {finding["kind"] for finding in without["findings"]}
    for loop in told["loops"]:
        assert loop["read_s"] <= loop["waiting_s"] + 1e-9
        assert all(row["waited_s"] <= loop["read_s"] + 1e-9 for row in loop["tasks"])


def test_loops_over_parts_of_the_history() -> None:
    """Times add up, counts are the largest, and rows beyond the limit are counted."""
    one = life([selects(200 * MS), run(MS)])
    part = observe([one], readings(one, A._replace(number=3), TICK))
    many = observe([one], readings(one, A, *(task(f"f{n}") for n in range(MAX_TASKS + 3))))
    (twice,) = merged_loops([part, part])
    assert (twice["waiting_s"], twice["read_s"]) == (0.4, 0.4)
    assert [(t["function"], t["count"], t["waited_s"]) for t in twice["tasks"]] == [
        ("a", 3, 0.4),
        ("tick", 1, 0.4),
    ]
    (loop,) = merged_loops([part, many, {"loops": []}, {}])
    assert len(loop["tasks"]) == MAX_TASKS
    assert loop["tasks_omitted"] >= 4
