"""What is believed of a driver's samples, and what never is."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.gpus.samples import (
    MAX_PID,
    Row,
    Utilization,
    UtilizationRow,
    gpm_span,
    process_rows,
)
from whyidle_daemon.gpus.wall_clock import WallClock

MS, US = 1_000_000, 1000
OFFSET = -1_700_000_000 * 1_000_000_000  # monotonic minus real time
BASE_US = 1_700_000_100 * 1_000_000


def rows(*values: int, start_us: int = BASE_US, period_us: int = 100_000) -> list[Row]:
    return [Row(start_us + number * period_us, value) for number, value in enumerate(values)]


def at(us: int) -> int:
    return us * US + OFFSET


def test_each_sample_covers_the_time_since_the_one_before() -> None:
    """The first one has none before it; the sums are exact."""
    spans = Utilization("g").spans(rows(50, 25, 0, 100), [], OFFSET, at(BASE_US + 400_000))
    assert [(s.start_ns - at(BASE_US), s.end_ns - s.start_ns, s.busy_ns) for s in spans] == [
        (0, 100 * MS, 25 * MS),
        (100 * MS, 100 * MS, 0),
        (200 * MS, 100 * MS, 100 * MS),
    ]


def test_a_row_that_was_seen_is_not_counted_again() -> None:
    """Drivers repeat rows, and give them in any order."""
    one = Utilization("g")
    now = at(BASE_US + 400_000)
    first = one.spans(rows(1, 2, 3), [], OFFSET, now)
    assert one.spans(rows(1, 2, 3), [], OFFSET, now) == []
    assert Utilization("g").spans(rows(1, 2, 3)[::-1], [], OFFSET, now) == first


def test_a_missing_sample_leaves_a_hole() -> None:
    """After a pause only the last period is known, not the time before it."""
    given_rows = [*rows(0, 0, 0), Row(BASE_US + 1_200_000, 0)]
    spans = Utilization("g").spans(given_rows, [], OFFSET, at(BASE_US + 1_300_000))
    assert [s.end_ns - s.start_ns for s in spans] == [100 * MS] * 3
    assert spans[-1].start_ns == at(BASE_US + 1_100_000)


def test_after_the_driver_was_away_nothing_is_told_of_the_time_between() -> None:
    """The first sample after a restart is a beginning only."""
    one = Utilization("g")
    one.spans(rows(0, 0), [], OFFSET, at(BASE_US + 200_000))
    one.restart()
    spans = one.spans(rows(0, 0, start_us=BASE_US + 3_000_000), [], OFFSET, at(BASE_US + 3_200_000))
    assert [(s.start_ns, s.end_ns) for s in spans] == [(at(BASE_US + 3_000_000), at(BASE_US + 3_100_000))]


def test_a_clock_that_was_set_makes_no_backward_span() -> None:
    """REALTIME jumps an hour ahead, then back: stamps from before and after do not go together."""
    one = Utilization("g")
    hour = 3_600_000_000
    one.spans(rows(0, 0), [], OFFSET, at(BASE_US + 200_000))
    jumped = one.spans(
        rows(0, 0, start_us=BASE_US + 200_000 + hour), [], OFFSET - hour * US, at(BASE_US + 400_000)
    )
    assert [(s.start_ns, s.end_ns) for s in jumped] == [
        (at(BASE_US + 100_000), at(BASE_US + 200_000)),
        (at(BASE_US + 200_000), at(BASE_US + 300_000)),
    ]


def test_a_clock_that_was_set_back_hides_nothing() -> None:
    """By seconds or by an hour: the GPU is seen on, and rows stamped before that are not believed."""
    for back_us in (3_000_017, 3_600_000_000):
        one = Utilization("g")
        before = rows(*[100] * 60)
        now = at(BASE_US + 6_000_000)
        one.spans(before, [], OFFSET, now)
        one.set_back(before)
        offset = OFFSET + back_us * US
        new = rows(0, 0, 0, start_us=BASE_US + 6_000_000 - back_us)
        spans = one.spans([*before, *new], [], offset, now + 300 * MS)
        assert [(s.start_ns, s.end_ns, s.busy_ns) for s in spans] == [
            (now, now + 100 * MS, 0),
            (now + 100 * MS, now + 200 * MS, 0),
        ]
        again = rows(50, start_us=BASE_US + 6_300_000 - back_us)
        (last,) = one.spans([*before, *new, *again], [], offset, now + 400 * MS)
        assert (last.start_ns, last.busy_ns) == (now + 200 * MS, 50 * MS)


def test_the_clock_was_set_back() -> None:
    """By more than a second, in one step or in several, or after it was set ahead: said once each time."""
    clock = WallClock()
    seconds = (0, 0.1, 0.9, 1.2, 1.2, -3600, -3600, -0.5, -0.4, 0.4, 0.6)
    found = [clock.was_set_back(OFFSET + int(ahead * 1_000_000_000)) for ahead in seconds]
    assert [number for number, back in enumerate(found) if back] == [3, 7, 10]


wild = st.builds(Row, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
near = st.builds(lambda us, value: Row(BASE_US + us, value), st.integers(0, 5_000_000), st.integers(0, 120))


@given(st.lists(st.lists(wild | near, max_size=12), max_size=5), st.lists(wild | near, max_size=12))
def test_no_garbage_makes_an_impossible_span(drains: list[list[Row]], copies: list[Row]) -> None:
    """Whatever the rows: forward, disjoint, no more work than time, nothing after now."""
    one = Utilization("g")
    now = at(BASE_US + 6_000_000)
    spans = [span for drain in drains for span in one.spans(drain, sorted(copies), OFFSET, now)]
    for before, after in pairwise(spans):
        assert before.end_ns <= after.start_ns
    for span in spans:
        assert 0 < span.start_ns < span.end_ns <= now
        assert span.busy_ns >= 0
        assert span.copy_ns >= 0
        assert span.busy_ns + span.copy_ns <= span.end_ns - span.start_ns


any_pid = st.integers(0, (1 << 32) - 1) | st.integers(1, 50)


@given(
    st.lists(st.tuples(any_pid, st.none() | st.integers(0, (1 << 64) - 1)), max_size=20),
    st.lists(
        st.builds(UtilizationRow, any_pid, st.integers(0, 1 << 63), st.integers(0, 40_000)), max_size=20
    ),
)
def test_process_rows_are_possible_or_not_there(
    running: list[tuple[int, int | None]], shares: list[UtilizationRow]
) -> None:
    """A PID once, one that can exist; no more memory than the card has; at most 100 %."""
    found = process_rows(running, shares, 1 << 36, 0, 1 << 62)
    assert len({row.pid for row in found}) == len(found)
    for row in found:
        assert 0 < row.pid < MAX_PID
        assert row.utilization is None or 0 <= row.utilization <= 1000
        assert row.pid in {pid for pid, _ in running}


def test_a_utilisation_row_of_an_earlier_process_is_not_of_this_one() -> None:
    """PIDs wrap: a row stamped before the last look says nothing of who has the PID now."""
    old, new = UtilizationRow(7, 100, 90), UtilizationRow(7, 300, 20)
    assert process_rows([(7, 5)], [old], None, 200, 400)[0].utilization is None
    assert process_rows([(7, 5)], [old, new], None, 200, 400)[0].utilization == 200


def test_gpm_values_that_are_none() -> None:
    """NaN, negative and too large percentages are unknown."""
    for value in (None, float("nan"), -1.0, 100.5, float("inf")):
        assert gpm_span("g", 0, 100, value, 0) is None
    span = gpm_span("g", 0, 100 * MS, 0.0, 10_000)
    assert span is not None
    assert (span.busy_ns, span.copy_ns) == (0, 50 * MS)
