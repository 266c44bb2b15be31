"""Slices and waits in little memory are what they were told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from whyidle_daemon.processes import Process
from whyidle_daemon.timelines import MAX_NS, Record, Timelines, Waker
from whyidle_daemon.waits import WaitGroup, WaitKey
from whyidle_probes.events import NO_PEER, Wait

PROCESS = Process(1, 0, provisional=False)
KEYS = st.none() | st.integers(1, 3).map(lambda tid: WaitKey(PROCESS, tid, int(Wait.TCP)))
NS = st.integers(0, 1000)
RECORDS = st.builds(
    Record, NS, NS, NS, st.integers(0, 31), KEYS, st.booleans(), NS, st.booleans(),
    st.none() | st.builds(Waker, NS, NS, NS),
)  # fmt: skip
LINES = st.lists(st.tuples(st.integers(1, 4), RECORDS), max_size=40)
WAITS = st.lists(st.tuples(st.integers(0, 3), NS, st.booleans()), max_size=20)


def told(lines: list[tuple[int, Record]], limit: int = 1000) -> Timelines:
    found = Timelines(limit)
    for tid, record in lines:
        found.add(tid, record)
    return found


def of(lines: list[tuple[int, Record]], tid: int) -> list[Record]:
    return sorted((r for who, r in lines if who == tid), key=lambda record: record.start_ns)


@settings(deadline=None)
@given(LINES, NS)
def test_what_is_kept_comes_back(lines: list[tuple[int, Record]], until_ns: int) -> None:
    """Every slice, in order of time; forgetting takes those that ended by then and no others."""
    found = told(lines)
    assert all(found.of(tid) == of(lines, tid) for tid in range(6))
    assert len(found) == len(lines)
    found.forget(lambda tid: until_ns)
    kept = [(tid, record) for tid, record in lines if record.end_ns > until_ns]
    assert all(found.of(tid) == of(kept, tid) for tid in range(6))
    assert len(found) == len(kept)


@settings(deadline=None)
@given(LINES)
def test_room_is_made(lines: list[tuple[int, Record]]) -> None:
    """Slices of drivers that go are returned; nothing is both kept and returned, nothing is counted twice."""
    found = told(lines, limit=20)
    lost = found.trim({1})
    left = [record for tid in found.tids for record in found.of(tid)]
    assert len(found) == len(left)
    assert sorted(map(str, [*found.of(1), *lost])) == sorted(map(str, of(lines, 1)))


def test_impossible_times_are_bounded() -> None:
    """A recording that lies about a slice's times leaves the others of its thread alone."""
    good, bad = Record(5, 1, 1, 3, None), Record(1 << 70, -1, 2, 3, None)
    found = told([(1, good), (1, bad)])
    assert found.of(1) == [good, Record(MAX_NS, 0, 2, 3, None)]


def group_of(waits: list[tuple[int, int, bool]]) -> WaitGroup:
    group = WaitGroup(WaitKey(PROCESS, 1, int(Wait.TCP)))
    for syscall, ns, connecting in waits:
        group.add(0, ns, syscall, NO_PEER._replace(tcp_state=2 if connecting else 1))
    return group


def sums_of(waits: list[tuple[int, int, bool]]) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for syscall, ns, _ in waits:
        count, total = found.get(syscall, (0, 0))
        found[syscall] = (count + 1, total + ns)
    return found


@settings(deadline=None)
@given(WAITS, WAITS)
def test_waits_by_system_call(
    first: list[tuple[int, int, bool]], second: list[tuple[int, int, bool]]
) -> None:
    """A group knows how often and how long it was in which system call, as does the sum of two groups."""
    group, other = group_of(first), group_of(second)
    assert dict(group.calls) == sums_of(first)
    both = group.copy()
    both.absorb(other)
    assert dict(both.calls) == sums_of([*first, *second])
    assert dict(group.calls) == sums_of(first)
