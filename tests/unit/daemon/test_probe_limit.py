"""The budget of the probes on CUDA launches and llama_decode, and the time without them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.cuda_facts import CudaKnown
from whyidle_daemon.facts import CudaFacts, LaunchesSeen
from whyidle_daemon.probe_limit import HIT_NS as HITS
from whyidle_daemon.probe_limit import SAVED_NS, SHARE, ProbeLimit
from whyidle_daemon.unseen import Unseen

TICK_NS = 50_000_000
NS = 1_000_000_000
HIT_NS = HITS["launch"]


def run(rates: list[int]) -> tuple[list[bool], int]:
    """Launches per second in each tick; returns when probes were on, and how many launches they saw."""
    limit, hits, on = ProbeLimit(0, 0, HIT_NS), 0, []
    for number, rate in enumerate(rates, start=1):
        on.append(limit.attached)
        if limit.attached:
            hits += rate * TICK_NS // NS
        limit.update(number * TICK_NS, hits)
    return on, hits


def test_slow_jobs_keep_their_probes() -> None:
    """Below the rate that costs one percent nothing is ever taken off."""
    on, _ = run([int(SHARE * NS / HIT_NS)] * 1000)
    assert all(on)


def test_fast_jobs_lose_and_regain_them() -> None:
    """At 20 000 launches per second probes go within two ticks, and are back once the job has calmed down."""
    on, _ = run([20_000] * 400 + [100] * 400)
    assert not on[4]
    assert 0 < sum(on[:400]) < 100
    assert all(on[-300:])


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=400))
def test_never_more_than_its_share(rates: list[int]) -> None:
    """Whatever the rates: one percent, what was saved up, and one tick's overshoot are not exceeded."""
    _, hits = run(rates)
    overshoot = max(rates) * TICK_NS // NS * HIT_NS
    assert hits * HIT_NS <= SHARE * len(rates) * TICK_NS + SAVED_NS + overshoot


def test_clock_that_stands_still() -> None:
    """Two looks at one instant decide nothing."""
    limit = ProbeLimit(5, 0, HIT_NS)
    assert not limit.update(5, 10**9)
    assert limit.attached


def test_time_without_probes() -> None:
    """Only what overlaps the engine's life counts, the part that goes on included."""
    known = Unseen()
    for ns, seen in ((10, False), (20, True), (20, True), (30, False), (31, False), (40, True), (90, False)):
        known.add(LaunchesSeen(ns, seen, 20_000))
    assert known.ns(0, 100) == 30
    assert known.ns(15, 35) == 10
    assert known.ns(50, 60) == 0


def test_simulated_is_of_the_process() -> None:
    """A process is simulated when the library it mapped last says so."""
    known = CudaKnown()
    known.add(CudaFacts(1, 0, True))
    known.add(CudaFacts(2, 0, False))
    assert (known.simulated(1), known.simulated(2), known.simulated(3)) == (True, False, False)
