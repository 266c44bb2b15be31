"""A model whose calls were too many to have probes: what the slices of its driver say of that time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_schema import check
from timeline import CONTEXT, COST, HOST, MS, PID, START, S, call, infer, life, run

from whyidle_daemon.facts import LaunchesSeen, Loss, Snapshot
from whyidle_daemon.observation import Observation
from whyidle_daemon.rebase import Base
from whyidle_daemon.timelines import Record
from whyidle_daemon.unseen import Unseen, seen_gaps
from whyidle_probes.events import Gap, Wait


def off(*times: tuple[int, int]) -> Unseen:
    found = Unseen()
    for start, end in times:
        found.add(LaunchesSeen(start, False, 9000, "decode"))
        found.add(LaunchesSeen(end, True, 9000, "decode"))
    return found


def slept(start: int, end: int, wait: Wait = Wait.TCP) -> Record:
    return Record(start, end - start, 0, int(wait), None)


def whole(start: int, end: int) -> Gap:
    return Gap(1, PID, PID, CONTEXT, start, end, None, True)


def test_each_sleep_is_a_gap_and_the_rest_is_work() -> None:
    """From 0 to 100, probes off from 10 to 90: two sleeps, one of them cut off, and the time with probes."""
    records = {PID: [slept(-5, 20), slept(40, 60), slept(61, 70, Wait.GPU)]}
    gaps, busy = seen_gaps([whole(0, 1000 * MS)], off((10, 900 * MS)), records)
    assert [(gap.start_ns, gap.end_ns) for gap in gaps] == [(0, 60), (900 * MS, 1000 * MS)]
    assert busy == 900 * MS - 60
    assert not any(gap.unseen for gap in gaps)


@given(
    st.lists(st.tuples(st.integers(0, S), st.integers(0, S)), max_size=8),
    st.lists(st.tuples(st.integers(0, 300 * MS), st.integers(1, 300 * MS), st.sampled_from(list(Wait)))),
    st.integers(0, S),
    st.integers(1, S),
)
def test_sums_hold(
    times: list[tuple[int, int]], steps: list[tuple[int, int, Wait]], start: int, length: int
) -> None:
    """Whatever the times and the sleeps: gaps in order, apart, inside; with the work they add up."""
    records, now = [], 0
    for ran, asleep, wait in steps:
        records.append(slept(now + ran, now + ran + asleep, wait))
        now += ran + asleep
    ends = sorted(end for pair in times for end in pair)
    unseen = off(*zip(ends[::2], ends[1::2], strict=False))
    gaps, busy = seen_gaps([whole(start, start + length)], unseen, {PID: records})
    at = start
    for gap in gaps:
        assert at <= gap.start_ns < gap.end_ns <= start + length
        at = gap.end_ns
    assert busy + sum(gap.end_ns - gap.start_ns for gap in gaps) == length
    assert busy >= 0


def test_the_report_says_so() -> None:
    """Two seconds without probes, in which the driver slept for one: idle for that, busy for the other."""
    agent = life([infer(100 * MS), run(500 * MS), call(S), run(500 * MS), infer(100 * MS), run(MS)])
    assert agent.engine is not None
    began = START + 100 * MS
    ended = began + 2 * S
    observation = Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z")
    observation.add(LaunchesSeen(began, False, 9000, "decode"))
    observation.add(LaunchesSeen(ended, True, 9000, "decode"))
    for event in agent.events:
        unseen = isinstance(event, Gap)
        observation.add(event._replace(ns=None, unseen=True) if unseen else event)
    engine = agent.engine._replace(idle_ns=0, gaps=0)
    found = observation.report(Snapshot(agent.end_ns, (agent.thread,), (engine,)), HOST, Loss(), COST, None)
    check(found)
    (shown,) = found["engines"]
    assert shown["calls_unseen_s"] == pytest.approx(2)
    assert shown["busy_s"] == pytest.approx(1.2)
    assert shown["idle_s"] == pytest.approx(1.001)
    (blocked,) = [f for f in found["findings"] if f["kind"] == "blocking_network_call"]
    assert blocked["confidence"] != "high"
    assert any("too many to observe" in reason for reason in blocked["confidence_reasons"])


def test_unseen_time_that_goes_on() -> None:
    """Probes are off now: what the driver is in the middle of is a gap, what it ran before is work."""
    agent = life([infer(100 * MS), run(400 * MS), call(600 * MS)], open_last=True)
    assert agent.engine is not None
    observation = Observation(START, (PID,), ("x",), "2026-01-01T00:00:00Z")
    observation.add(LaunchesSeen(START + 100 * MS, False, 9000, "decode"))
    snapshot = Snapshot(agent.end_ns, (agent.thread,), (agent.engine,))
    found = observation.report(snapshot, HOST, Loss(), COST, None)
    check(found)
    (engine,), (gap,) = found["engines"], found["gaps"]
    assert (engine["busy_s"], engine["idle_s"]) == (pytest.approx(0.5), pytest.approx(0.6))
    assert gap["open"]
    assert gap["causes"][0]["state"] == "network"


def test_a_cut_in_unseen_time_takes_nothing_off() -> None:
    """What was under way at the cut is in no total, so none of it may be taken off what came later."""
    agent = life([infer(100 * MS), run(MS)])
    assert agent.engine is not None
    cut = START + S
    before = Snapshot(cut, (agent.thread,), (agent.engine,))
    later = agent.engine._replace(last_ns=START + 3 * S, idle_ns=agent.engine.idle_ns + 500 * MS)
    assert Base(before, START + 200 * MS).engine(later).idle_ns == 500 * MS
    assert Base(before).engine(later).idle_ns == 0
