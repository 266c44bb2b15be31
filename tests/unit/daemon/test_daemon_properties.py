"""What holds for every target: sums, independence of order and of bystanders, and bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_schema import check
from timeline import (
    COST,
    HOST,
    MS,
    PID,
    START,
    Life,
    S,
    Step,
    asleep,
    at,
    born,
    call,
    died,
    infer,
    life,
    observe,
    peer,
    queued,
    run,
)

from whyidle_daemon.facts import Loss, MemorySample, ProcessFacts, Snapshot
from whyidle_daemon.gaps import explain, fit
from whyidle_daemon.observation import Observation
from whyidle_daemon.processes import MAX_PROCESSES, Process
from whyidle_daemon.timelines import MAX_RECORDS, Record
from whyidle_daemon.wait_tables import MAX_GROUPS
from whyidle_daemon.waits import WaitKey
from whyidle_probes.events import NO_SYSCALL, STATES, Gap, Slice, Wait

PEERS = [peer("93.184.216.34"), peer("10.0.0.2", 53), peer("::1", 8080, tcp_state=2), peer("0.0.0.0", 0)]
lengths = st.one_of(st.integers(1, 3 * MS), st.integers(MS, 2 * S))
queue = st.one_of(st.just(0), lengths)
waits = st.one_of(
    st.builds(call, lengths, st.sampled_from(PEERS), st.sampled_from([7, 42, 45]), queue),
    st.builds(asleep, st.sampled_from([wait for wait in Wait if wait > 1]), lengths, queue),
)
sampled = st.builds(
    at, waits, st.sampled_from("fg"), st.integers(1, 2), st.sampled_from(["", "blocked", "waiting"])
)
steps = st.lists(
    st.one_of(st.builds(run, lengths), st.builds(infer, lengths), waits, sampled, st.builds(queued, lengths)),
    min_size=1,
    max_size=40,
)
targets = st.lists(st.tuples(steps, st.booleans(), st.booleans()), min_size=1, max_size=4)


def lives_of(target: list[tuple[list[Step], bool, bool]]) -> list[Life]:
    """Threads of one process; only the first may infer, and any may be cut off in the middle of a wait."""
    lives = []
    for number, (script, ended, cut) in enumerate(target):
        plain = [step._replace(busy=step.busy and number == 0) for step in script]
        open_last = cut and not ended and not plain[-1].busy
        lives.append(life(plain, tid=PID + number, ended=ended, open_last=open_last))
    return lives


def nanoseconds(value: float) -> int:
    return round(value * S)


@given(targets)
@settings(max_examples=150, deadline=None)
def test_every_sum_holds(target: list[tuple[list[Step], bool, bool]]) -> None:
    """States add up to wall time, causes to idle time, busy and idle to the time observed: exactly."""
    lives = lives_of(target)
    now = max(each.end_ns for each in lives)
    report = observe(lives)
    check(report)
    for each in lives:
        (row,) = [thread for thread in report["threads"] if thread["tid"] == each.thread.tid]
        wall = (each.thread.end_ns or now) - each.thread.first_ns
        assert nanoseconds(row["wall_s"]) == wall
        assert abs(nanoseconds(sum(row["states"].values())) - wall) <= 1
    for engine in report["engines"]:
        first = lives[0].engine.first_ns if lives[0].engine else 0
        assert abs(nanoseconds(engine["busy_s"] + engine["idle_s"]) - (now - first)) <= 1


@given(targets)
@settings(max_examples=100, deadline=None)
def test_samples_name_time_and_never_change_a_sum(target: list[tuple[list[Step], bool, bool]]) -> None:
    """With and without stacks: the same threads, engines, gaps, and idle time by thread, state and peer."""
    lives = lives_of(target)
    with_stacks, without = observe(lives), observe([each._replace(samples=()) for each in lives])
    check(with_stacks)
    for part in ("threads", "engines", "target", "processes", "loss"):
        assert with_stacks[part] == without[part]

    def causes(report: dict[str, Any]) -> dict[Any, float]:
        rows = [("idle", row, row["seconds"]) for row in report["idle_by_cause"]]
        for gap in report["gaps"]:
            name = (gap["engine"], gap["start_s"], gap["duration_s"], gap["open"])
            rows += [(name, cause, cause["share"] * gap["duration_s"]) for cause in gap["causes"]]
        sums: dict[Any, float] = {}
        for where, row, value in rows:
            key = (where, row["state"], row["pid"], row["tid"], str(row["peer"]))
            sums[key] = sums.get(key, 0.0) + value
        return sums

    assert causes(with_stacks) == pytest.approx(causes(without), abs=1e-9)


@given(targets, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_order_between_the_rings_does_not_matter(
    target: list[tuple[list[Step], bool, bool]], order: random.Random
) -> None:
    """Process events, facts, slices and gaps in any order give the same report."""
    lives = lives_of(target)
    child = life([run(MS), call(300 * MS), run(MS)], pid=99, start=START + MS, ended=True)
    extra: tuple[Any, ...] = (
        born(99, PID, START + MS),
        ProcessFacts(99, PID, ("curl",), None, START + 2 * MS),
        MemorySample(99, START + 2 * MS, 5000, None),
        died(99, child.end_ns),
    )

    def shuffled(records: list[Any]) -> list[Any]:
        mixed = list(records)
        order.shuffle(mixed)
        return mixed

    assert observe([*lives, child], extra, arrange=shuffled) == observe([*lives, child], extra)


@given(targets, steps)
@settings(max_examples=75, deadline=None)
def test_bystanders_never_change_the_blame(
    target: list[tuple[list[Step], bool, bool]], other: list[Step]
) -> None:
    """Whatever another thread of another process does, network findings and idle causes stay."""
    target[0] = ([infer(MS), *target[0][0], infer(MS)], *target[0][1:])
    lives = lives_of(target)
    now = max(each.end_ns for each in lives)
    bystander = life([step._replace(busy=False) for step in other], pid=500, ended=True)
    late = max(now, bystander.end_ns)
    # Shares are of the whole run, so somebody has to make it equally long in both.
    lives.append(life([asleep(Wait.SLEEP, late - START + MS)], pid=501, open_last=True))
    alone, beside = observe(lives), observe([*lives, bystander])
    assert alone["idle_by_cause"] == beside["idle_by_cause"]
    assert alone["gaps"] == beside["gaps"]

    def blamed(report: dict[str, Any]) -> list[tuple[Any, ...]]:
        names = ("kind", "tid", "peer", "count", "engine_idle_s", "saves_s")
        return [tuple(str(f[name]) for name in names) for f in report["findings"] if f["pid"] == PID]

    assert blamed(alone) == blamed(beside)


@given(
    st.integers(1, S),
    st.one_of(st.none(), st.lists(st.integers(0, S), min_size=STATES, max_size=STATES)),
    st.lists(
        st.tuples(st.integers(-S, S), st.integers(0, S), st.integers(0, S), st.sampled_from([1, 3, 3, 12])),
        max_size=20,
    ),
)
def test_pieces_add_up_to_the_gap_whatever_the_kernel_said(
    length: int, exact: list[int] | None, records: list[tuple[int, int, int, int]]
) -> None:
    """Even contradictory totals and slices are made to fit the gap exactly."""
    key = WaitKey(Process(PID, START, True), PID, int(Wait.TCP), bytes(16), 80, 2)
    slices = [
        Record(START + at, blocked, queue, wait, key if wait == Wait.TCP else None)
        for at, blocked, queue, wait in records
    ]
    pieces = explain(START, START + length, exact, slices)
    assert sum(piece.ns for piece in pieces) == length
    assert all(piece.ns > 0 and piece.longest_ns <= piece.ns for piece in pieces)


@given(st.dictionaries(st.integers(0, 9), st.integers(0, S)), st.integers(0, S))
def test_fit_is_exact(parts: dict[int, int], total: int) -> None:
    """Scaling and filling up end at the total, with nothing below zero."""
    fitted = fit(parts, total, -1)
    assert sum(fitted.values()) == total
    assert all(ns > 0 for ns in fitted.values())


# --- bounds --------------------------------------------------------------------------------------------


def feed(count: int, threads: int, peers: int) -> tuple[Observation, int]:
    """An observation of one process whose threads have many waits, 10 microseconds apart."""
    observation = Observation(START, (PID,), ("x",), "now")
    fars = [peer("10.0.0.1", 1024 + n) for n in range(peers)]
    at = START
    for number in range(count):
        tid, at = PID + number % threads, START + number * 10_000
        far = fars[number % peers]
        shape = (1, PID, tid, at, 5000, 1000, 0, 0, 0, 0)
        observation.add(Slice(*shape, int(Wait.TCP), NO_SYSCALL, 3, far))
    return observation, at


def test_memory_is_bounded_in_slices_threads_and_peers() -> None:
    """100 000 slices of 10 000 threads with 20 000 peers stay within a few megabytes."""
    tracemalloc.start()
    try:
        observation, now = feed(100_000, 10_000, 20_000)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 25_000_000
    assert len(observation._lines) <= MAX_RECORDS
    assert len(observation._waits.groups) <= MAX_GROUPS
    report = observation.report(Snapshot(now + S), HOST, Loss(), COST, None)
    assert report["loss"]["summed_only"] > 0


def test_a_storm_does_not_lose_the_drivers_story() -> None:
    """A search among 100 000 slices of other threads is still found and fully explained."""
    agent = life([infer(100 * MS), *[call(500 * MS), run(MS), infer(100 * MS)] * 8])
    storm = []
    for number in range(100_000):
        shape = (1, PID, PID + 1 + number % 50, START + number * 48_000, 1000, 0, 0, 0, 0, 0)
        storm.append(Slice(*shape, int(Wait.FUTEX), NO_SYSCALL, -1, peer()))
    ends = [getattr(e, "end_ns", 0) for e in agent.events]
    mixed = sorted([*storm, *agent.events], key=lambda e: e.end_ns)
    assert max(ends) > 0
    report = observe([agent._replace(events=[])], tuple(mixed))
    check(report)
    (found,) = report["findings"]
    assert found["engine_idle_s"] == pytest.approx(4.0)
    assert found["saves_by"]["gather"] == 0


def test_a_driver_with_too_many_slices_keeps_its_peers() -> None:
    """Slices of a driver that had to go are summed by peer, and the gap still names it."""
    calls = [call(2 * MS), run(1000)] * (MAX_RECORDS * 2)
    report = observe([life([infer(MS), run(MS), infer(MS), *calls, infer(MS)])])
    check(report)
    assert report["idle_by_cause"][0]["peer"]["address"] == "93.184.216.34"
    assert report["idle_by_cause"][0]["share"] > 0.99
    assert report["findings"][0]["confidence"] == "medium"


def test_many_gaps_are_settled_and_nothing_is_lost() -> None:
    """An hour of short gaps is kept as sums; the longest hundred stay."""
    one = life([infer(MS), call(3 * MS)] * 20_000)
    observation = Observation(START, (PID,), ("x",), "now")
    for record in one.records:
        observation.add(record)
    (engine,) = observation._engines._known.values()
    assert len(engine.pending) < 5000
    report = observe([one])
    check(report)
    assert len(report["gaps"]) == 100
    assert report["idle_by_cause"][0]["seconds"] == pytest.approx(60)
    assert report["findings"][0]["engine_idle_s"] == pytest.approx(60)


def test_a_fork_storm_is_summed() -> None:
    """Thousands of short-lived children: bounded rows, and every nanosecond in a sum."""
    count = MAX_PROCESSES + 3000
    records: list[Any] = []
    children = []
    for number in range(count):
        at = START + number * MS
        child = life([run(MS), call(MS)], pid=10_000 + number, start=at, ended=True)
        records += [
            born(child.thread.pid, PID, at),
            *child.records,
            child.thread,
            died(child.thread.pid, at + 2 * MS),
        ]
        children.append(child)
    report = observe([life([asleep(Wait.SIGNAL, 20 * S)])], tuple(records))
    check(report)
    assert len(report["threads"]) <= 1000
    assert len(report["processes"]) <= 1000
    assert len(report["processes"]) + report["processes_omitted"]["count"] == count + 1
    cpu = sum(process["cpu_s"] for process in report["processes"]) + report["processes_omitted"]["cpu_s"]
    assert cpu == pytest.approx(count * 0.001)
    walls = sum(thread["wall_s"] for thread in report["threads"]) + report["threads_omitted"]["wall_s"]
    assert walls == pytest.approx(count * 0.002 + 20)
    assert not report["findings"]


def test_a_fork_storm_through_two_rings_makes_nobody_twice() -> None:
    """What was said of a process is read a twentieth of a second after its exit: it does not live again."""
    count, apart, batch = 3 * MAX_PROCESSES, MS // 2, 100  # 2000 a second, and how many a reading finds
    records: list[Any] = []
    late: list[Any] = []
    for number in range(count):
        at = START + number * apart
        child = life([run(MS // 4), call(MS // 8)], pid=10_000 + number, start=at, ended=True)
        records += [born(child.thread.pid, PID, at), died(child.thread.pid, child.thread.end_ns)]
        late += [*child.records, child.thread]
        if number % batch == batch - 1:
            records += late
            late.clear()
    end_s = count * apart / S + 1
    report = observe([life([asleep(Wait.SIGNAL, round(end_s * S))])], (*records, *late))
    check(report)
    assert len(report["processes"]) + report["processes_omitted"]["count"] == count + 1
    cpu = sum(process["cpu_s"] for process in report["processes"]) + report["processes_omitted"]["cpu_s"]
    assert cpu == pytest.approx(count * 0.00025)


def test_ten_thousand_live_threads() -> None:
    """The report keeps the thousand longest lives and the sums of the rest."""
    lives = [life([run(MS), asleep(Wait.FUTEX, S + n)], tid=PID + n, open_last=True) for n in range(10_000)]
    report = observe(lives, now=START + 2 * S)
    check(report)
    assert (len(report["threads"]), report["threads_omitted"]["count"]) == (1000, 9000)


def test_gap_events_of_no_length_are_ignored() -> None:
    """A record that makes no sense does not break the report."""
    observation = Observation(START, (PID,), ("x",), "now")
    observation.add(Gap(1, PID, PID, 1, START, START, (0,) * STATES))
    report = observation.report(Snapshot(START + S), HOST, Loss(), COST, None)
    check(report)
