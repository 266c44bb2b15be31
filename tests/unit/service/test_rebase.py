"""An observation that begins in the middle is told exactly what happened from there on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.facts import Snapshot, StackSample
from whyidle_daemon.rebase import Base, difference
from whyidle_probes.events import NO_PEER, STATES, Engine, Gap, Inference, Slice, Thread, Wait

PID, TID, CONTEXT = 7, 8, 0xC0DE
BEGAN = 1000


@dataclass(frozen=True)
class Life:
    """A thread's intervals: (wait, nanoseconds), one after the other from BEGAN; RUNNING may be a call."""

    intervals: tuple[tuple[int, int], ...]
    calls: frozenset[int] = frozenset()  # numbers of the RUNNING intervals that are calls of an engine

    @property
    def end(self) -> int:
        return BEGAN + sum(ns for _, ns in self.intervals)

    def spent(self, begin: int, end: int) -> list[int]:
        """The truth: time in each wait between two instants."""
        sums, at = [0] * STATES, BEGAN
        for wait, ns in self.intervals:
            sums[wait] += max(0, min(end, at + ns) - max(begin, at))
            at += ns
        return sums

    def thread(self, now: int) -> Thread:
        """The kernel's record of it, as it is at an instant."""
        sums, at, wait, last = [0] * STATES, BEGAN, int(Wait.RUNNING), BEGAN
        for wait, ns in self.intervals:
            last = at
            if at + ns > now:
                break
            sums[wait] += ns
            at += ns
            last = at
        return Thread(PID, TID, 1, 0, BEGAN, last, 0, 0, 0, 0, 0, 0, 0, wait, 0, -1, NO_PEER, "t",
                      tuple(sums), (0,) * STATES)  # fmt: skip

    def bounds(self) -> list[tuple[int, int]]:
        """Begin and end of each call."""
        found, at = [], BEGAN
        for number, (_, ns) in enumerate(self.intervals):
            if number in self.calls:
                found.append((at, at + ns))
            at += ns
        return found

    def engine(self, now: int) -> Engine | None:
        """The kernel's record of the engine, none before the first call."""
        calls = [(begin, end) for begin, end in self.bounds() if begin <= now]
        if not calls:
            return None
        over = [call for call in calls if call[1] <= now]
        busy = len(over) < len(calls)
        first, last = calls[0][0], calls[-1][0] if busy else over[-1][1]
        worked = sum(end - begin for begin, end in over)
        seen = self.spent(BEGAN, over[-1][1]) if over else [0] * STATES
        idle = last - first - worked
        totals = worked, idle, len(over), max(0, len(calls) - 1), 0
        return Engine(PID, CONTEXT, 1, TID, busy, first, last, *totals, tuple(seen))

    def gaps(self, after: int, until: int) -> list[Gap]:
        """Those that ended in a time, as the kernel announces them."""
        return [
            Gap(1, PID, TID, CONTEXT, before[1], call[0], tuple(self.spent(before[1], call[0])))
            for before, call in pairwise(self.bounds())
            if after < call[0] <= until and call[0] > before[1]
        ]


WAITS = [int(Wait.TCP), int(Wait.FUTEX), int(Wait.SLEEP), int(Wait.RUNQUEUE)]


@st.composite
def lives(draw: st.DrawFn) -> tuple[Life, int, int]:
    """A life, an instant to cut at and a later one to look at."""
    intervals = []
    for _ in range(draw(st.integers(1, 8))):
        intervals.append((int(Wait.RUNNING), draw(st.integers(1, 50))))
        intervals.append((draw(st.sampled_from(WAITS)), draw(st.integers(1, 50))))
    runs = range(0, len(intervals), 2)
    life = Life(tuple(intervals), frozenset(n for n in runs if draw(st.booleans())))
    cut = draw(st.integers(BEGAN, life.end - 1))
    return life, cut, draw(st.integers(cut, life.end))


def base_at(life: Life, cut: int) -> Base:
    engine = life.engine(cut)
    return Base(Snapshot(cut, (life.thread(cut),), (engine,) if engine is not None else ()))


@given(lives())
def test_a_threads_time_since_the_cut(case: tuple[Life, int, int]) -> None:
    """By wait, to the nanosecond, whatever the thread was in the middle of."""
    life, cut, now = case
    thread = base_at(life, cut).thread(life.thread(now))
    assert thread.totals_at(now) == life.spent(cut, now)
    assert thread.first_ns == cut


@given(lives())
def test_an_engines_time_since_the_cut(case: tuple[Life, int, int]) -> None:
    """Busy and idle add up to the time since the cut, or since the first call if that came later."""
    life, cut, now = case
    raw = life.engine(now)
    if raw is None:
        return
    base = base_at(life, cut)
    engine = base.engine(raw)
    began = max(cut, raw.first_ns)
    assert engine.first_ns == began
    assert engine.busy_ns + engine.idle_ns == engine.last_ns - began
    busy = sum(max(0, min(end, now) - max(begin, cut)) for begin, end in life.bounds())
    under_way = now - engine.last_ns
    assert engine.busy_ns + (under_way if engine.busy else 0) == busy
    if not engine.busy:  # the gap that is open is explained by the driver's totals now and at its begin
        totals = base.thread(life.thread(now)).totals_at(now)
        open_gap = [after - before for after, before in zip(totals, engine.seen, strict=True)]
        assert open_gap == life.spent(engine.last_ns, now)


@given(lives())
def test_gaps_since_the_cut(case: tuple[Life, int, int]) -> None:
    """One that began before is cut there, and its parts are those since the cut."""
    life, cut, now = case
    base = base_at(life, cut)
    for gap in life.gaps(cut, now):
        seen = base.record(gap)
        assert (seen.start_ns, seen.end_ns) == (max(gap.start_ns, cut), gap.end_ns)
        assert seen.ns is not None
        assert list(seen.ns) == life.spent(seen.start_ns, seen.end_ns)
    for gap in life.gaps(0, cut):
        assert base.record(gap) is None or gap.end_ns > cut


def slice_of(start: int, blocked: int, runqueue: int) -> Slice:
    return Slice(1, PID, TID, start, blocked, runqueue, 0, 0, 0, 0, int(Wait.TCP), 0, 3, NO_PEER)


def test_slices_are_clipped() -> None:
    """A wait over the cut counts from there on; its sample goes with it."""
    base = Base(Snapshot(100))
    assert base.record(slice_of(100, 5, 1)) == slice_of(100, 5, 1)
    assert base.record(slice_of(90, 30, 5)) == slice_of(100, 20, 5)
    assert base.record(slice_of(90, 5, 10)) == slice_of(100, 0, 5)
    assert base.record(slice_of(90, 5, 5)) is None
    sample = StackSample(PID, TID, 90, None, "")  # type: ignore[arg-type]
    assert base.record(sample).since_ns == 100


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=6))
def test_a_difference_is_never_negative_and_its_sum_is_kept(pairs: list[tuple[int, int]]) -> None:
    """An interval that was put down to another wait afterwards takes from that one."""
    after, before = tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
    found = difference(after, before)
    assert min(found) >= 0
    assert sum(found) == max(0, sum(after) - sum(before))


def test_tokens_and_inferences_count_from_the_cut_on() -> None:
    """What was computed before it is another observation's, and so is an inference that ended before."""
    now = Engine(PID, CONTEXT, 1, TID, False, BEGAN, 5000, 400, 3600, 9, 8, 0, (0,) * STATES)._replace(
        prompt_tokens=70, decode_tokens=30, prompt_ns=300, decode_ns=100, inferences=3, failed=1, position=90
    )
    then = now._replace(
        prompt_tokens=40, decode_tokens=10, prompt_ns=200, decode_ns=50, inferences=1, failed=1
    )
    base = Base(Snapshot(4000, (), (then,)))
    seen = base.engine(now._replace(run_start_ns=4500, run_end_ns=5000))
    assert (seen.prompt_tokens, seen.decode_tokens, seen.prompt_ns, seen.decode_ns) == (30, 20, 100, 50)
    assert (seen.inferences, seen.failed, seen.position, seen.run_end_ns) == (2, 0, 90, 5000)
    assert base.engine(now._replace(run_start_ns=3000, run_end_ns=3900)).run_end_ns == 0
    ended = Inference(1, PID, TID, CONTEXT, 3000, 3900, 100, 0, 40, 0, 40)
    assert base.record(ended) is None
    assert base.record(ended._replace(end_ns=4100)) is not None


def test_who_ended_while_the_totals_were_read_is_not_told_again() -> None:
    """Its last record comes after the cut, and all its time was before."""
    thread = Life(((int(Wait.SLEEP), 100),)).thread(BEGAN + 100)
    cut = BEGAN + 200
    base = Base(Snapshot(cut, (), ()))
    assert base.record(thread._replace(end_ns=cut - 1, last_ns=cut - 1)) is None
    later = thread._replace(first_ns=cut + 1, end_ns=cut + 50, last_ns=cut + 50)
    assert base.record(later) == later
