"""Gaps from sources of different resolution: sums that hold, edges that contain the truth."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from whyidle_daemon.facts import EngineSpan
from whyidle_daemon.gpus.spans import Idle, cut, during, idleness, segments
from whyidle_daemon.intervals import united

MS = 1_000_000
PERIOD = 100 * MS


def sampled(truth: list[tuple[int, int]], until: int, period: int = PERIOD) -> list[EngineSpan]:
    """What a duty-cycle source with this period says of an engine that was busy in these intervals."""
    spans = []
    for start in range(0, until, period):
        end = min(start + period, until)
        busy = sum(max(0, min(b, end) - max(a, start)) for a, b in truth)
        spans.append(EngineSpan("gpu", start, end, busy, 0, period))
    return spans


def exact(truth: list[tuple[int, int]], start: int, end: int) -> list[EngineSpan]:
    """What a source that knows every edge says of a part of it."""
    points = sorted({start, end, *(min(max(p, start), end) for pair in truth for p in pair)})
    return [
        EngineSpan("gpu", a, b, b - a if any(x <= a < y for x, y in truth) else 0, 0, 10_000, 7)
        for a, b in pairwise(points)
    ]


@st.composite
def truths(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int]:
    """Busy intervals, apart from one another, and how long was looked."""
    at, found = 0, []
    for idle, busy in draw(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), max_size=12)):
        found.append((at + idle * MS, at + (idle + busy) * MS))
        at = found[-1][1]
    return found, at + draw(st.integers(1, 500)) * MS


spans = st.lists(
    st.builds(
        lambda start, length, busy, copy, edge: EngineSpan("g", start, start + length, busy, copy, edge),
        st.integers(0, 2000),
        st.integers(-5, 600),
        st.integers(-5, 700),
        st.integers(0, 300),
        st.sampled_from([1, 10, 100]),
    ),
    max_size=25,
)


@given(spans, st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 2500)), max_size=8))
def test_what_lies_in_some_intervals(given_spans: list[EngineSpan], times: list[tuple[int, int]]) -> None:
    """Every instant that is in a span and in an interval once, no other, and no more work than time."""
    known, lived = segments(given_spans), united(times)
    inside = during(known, lived)
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(inside))
    instants = {ns for segment in known for ns in range(segment.start_ns, segment.end_ns)}
    wanted = instants & {ns for begin, end in times for ns in range(begin, end)}
    assert sum(segment.length_ns for segment in inside) == len(wanted)
    assert all(ns in wanted for segment in inside for ns in (segment.start_ns, segment.end_ns - 1))
    assert all(0 <= segment.work_ns <= segment.length_ns for segment in inside)
    assert during(known, [(0, 1 << 64)]) == known


@given(spans)
@example([EngineSpan("g", 0, 3, 1, 1, 10), EngineSpan("g", 1, 2, 0, 0, 1)])
def test_segments_never_overlap_and_sums_hold_whatever_the_sources_say(given_spans: list[EngineSpan]) -> None:
    """Contradictory, overlapping, empty and backward spans: disjoint segments, idle + work = observed."""
    known = segments(given_spans)
    covered: set[int] = set()
    for span in given_spans:
        covered |= set(range(span.start_ns, span.end_ns))
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(known))
    assert sum(segment.length_ns for segment in known) == len(covered)
    assert all(segment.busy_ns >= 0 and segment.copy_ns >= 0 and segment.idle_ns >= 0 for segment in known)
    found = idleness(known)
    in_gaps = sum(gap.length_ns for gap in found.gaps)
    assert in_gaps + sum(part.idle_ns for part in found.scattered) == found.idle_ns
    assert all(a.end_ns <= b.start_ns for a, b in pairwise(found.gaps))
    assert all(gap.length_ns > 0 for gap in found.gaps)


@given(truths())
@settings(max_examples=200)
def test_with_samples_alone_every_long_gap_is_found_within_a_period(
    case: tuple[list[tuple[int, int]], int],
) -> None:
    """A gap of two periods or more holds a period without work: found, each edge within one period."""
    truth, until = case
    found = idleness(segments(sampled(truth, until)))
    assert found.busy_ns == sum(b - a for a, b in truth)
    for start, end in gaps_of(truth, until):
        if end - start >= 2 * PERIOD:
            match = [gap for gap in found.gaps if gap.start_ns < end and gap.end_ns > start]
            assert match, (start, end)
            assert min(abs(gap.start_ns - start) for gap in match) <= PERIOD
            assert min(abs(gap.end_ns - end) for gap in match) <= PERIOD


@given(truths())
@settings(max_examples=200)
def test_exact_edges_are_found_exactly(case: tuple[list[tuple[int, int]], int]) -> None:
    """Where an exact source covers everything, samples beside it change nothing."""
    truth, until = case
    found = idleness(segments([*sampled(truth, until), *exact(truth, 0, until)]))
    assert [(gap.start_ns, gap.end_ns) for gap in found.gaps] == gaps_of(truth, until)
    assert all(gap.start_edge_ns == gap.end_edge_ns == 10_000 for gap in found.gaps)
    assert found.scattered == ()


@given(truths(), st.integers(0, 3000), st.integers(1, 3000))
@settings(max_examples=200)
def test_a_partly_exact_story_never_counts_work_twice(
    case: tuple[list[tuple[int, int]], int], start: int, length: int
) -> None:
    """An exact source that saw only a part: the busy time of all is still the truth, to the rounding."""
    truth, until = case
    begin, end = min(start * MS, until - 1), min((start + length) * MS, until)
    begin = min(begin, end - 1)
    found = idleness(segments([*sampled(truth, until), *exact(truth, begin, end)]))
    assert found.observed_ns == until
    assert abs(found.busy_ns - sum(b - a for a, b in truth)) <= 64  # a nanosecond per division


def gaps_of(truth: list[tuple[int, int]], until: int) -> list[tuple[int, int]]:
    """The idle intervals of a truth."""
    points = [0, *(p for pair in truth for p in pair), until]
    return [(a, b) for a, b in zip(points[::2], points[1::2], strict=True) if b > a]


def test_half_the_time_in_small_gaps_is_found_as_well_as_in_one() -> None:
    """5 ms busy, 5 ms idle for 4 s: no gap is seen, and all of the idle time is."""
    truth = [(at * 10 * MS, at * 10 * MS + 5 * MS) for at in range(400)]
    found = idleness(segments(sampled(truth, 4000 * MS)))
    assert found.gaps == ()
    (part,) = found.scattered
    assert (part.start_ns, part.end_ns, part.idle_ns) == (0, 4000 * MS, 2000 * MS)


def test_a_copy_is_not_idle() -> None:
    """A period with nothing but copying belongs to no gap."""
    known = [EngineSpan("g", 0, 100, 0, 0, 100), EngineSpan("g", 100, 200, 0, 100, 100)]
    found = idleness(segments([*known, EngineSpan("g", 200, 300, 0, 0, 100)]))
    assert [(gap.start_ns, gap.end_ns) for gap in found.gaps] == [(0, 100), (200, 300)]
    assert (found.busy_ns, found.copy_ns, found.idle_ns) == (0, 100, 200)


def test_a_burst_between_two_gaps_is_placed_in_the_middle_and_says_so() -> None:
    """20 % of a period between idle ones: two gaps, whose inner edges are uncertain by half a period."""
    parts = [EngineSpan("g", 0, 100, 0, 0, 1), EngineSpan("g", 100, 200, 20, 0, 1)]
    found = idleness(segments([*parts, EngineSpan("g", 200, 300, 0, 0, 1)]))
    assert found.gaps == (Idle(0, 140, 1, 60), Idle(160, 300, 60, 1))


def test_what_nobody_saw_is_no_gap() -> None:
    """Between two spans that do not touch nothing is known."""
    found = idleness(segments([EngineSpan("g", 0, 100, 0, 0, 1), EngineSpan("g", 500, 600, 100, 0, 1)]))
    assert [(gap.start_ns, gap.end_ns) for gap in found.gaps] == [(0, 100)]
    assert found.observed_ns == 200


@given(truths(), st.integers(0, 10_000))
def test_a_story_can_be_settled_in_two_parts(case: tuple[list[tuple[int, int]], int], at: int) -> None:
    """Cut where :func:`cut` says, both parts have together the gaps of the whole."""
    truth, until = case
    known = segments(sampled(truth, until))
    number = cut(known, at * MS)
    first, second, whole = idleness(known[:number]), idleness(known[number:]), idleness(known)
    assert first.gaps + second.gaps == whole.gaps
    assert first.idle_ns + second.idle_ns == whole.idle_ns
