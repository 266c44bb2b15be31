"""Which threads get a clock, and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest
from report_schema import check
from timeline import MS, PID, START, Life, S, asleep, at, infer, life, observe, run

from whyidle_daemon.facts import Site, StackSample
from whyidle_daemon.spins import KEPT_LOOKS, MAX_CLOCKS, Spins
from whyidle_probes.events import NO_PEER, NO_SYSCALL, Glance, Wait


def glance(tid: int, running_ns: int, last_ns: int = 0, state: Wait = Wait.SLEEP) -> Glance:
    return Glance(PID, tid, last_ns, 0, 0, state, NO_SYSCALL, -1, NO_PEER, running_ns)


def test_a_thread_that_never_sleeps_gets_a_clock() -> None:
    """Its time is counted while it runs, not only when it stops; half-busy ones get none."""
    spins = Spins()
    for second in range(4):
        now = second * S
        threads = [glance(1, 0, 0, Wait.RUNNING), glance(2, now // 2), glance(3, now * 9 // 10)]
        spins.update(threads, now)
    assert spins.busy == spins.clocked == {1, 3}


def test_a_thread_is_busy_until_it_rests() -> None:
    """Sixty per cent is no reason to begin, and none to end."""
    spins, ran = Spins(), 0
    seen = []
    for second, share in enumerate((0, 60, 90, 60, 40, 60)):
        ran += share * S // 100
        spins.update([glance(1, ran)], second * S)
        seen.append(bool(spins.busy))
    assert seen == [False, False, True, True, False, False]


def test_a_clock_outlasts_the_pauses_of_a_thread() -> None:
    """An agent computes and waits in turn; a clock for every turn would cost more than it says."""
    spins, ran = Spins(), 0
    for second in range(60):
        ran += S * (second % 4 < 2)
        spins.update([glance(1, ran)], second * S)
        assert second < 2 or spins.clocked == {1}
    for second in range(60, 60 + KEPT_LOOKS + 2):
        spins.update([glance(1, ran)], second * S)
    assert spins.clocked == frozenset()


def test_clocks_are_few_and_threads_may_go() -> None:
    """A hundred busy threads get some, whatever rests gives its own up for them; those that end get none."""
    spins = Spins()
    for second in range(3):
        spins.update([glance(1000, second * S)], second * S)
    assert spins.clocked == {1000}
    for second in range(3, 6):
        spins.update([glance(tid, second * S) for tid in range(100)] + [glance(1000, 3 * S)], second * S)
    assert len(spins.clocked) == MAX_CLOCKS
    assert spins.clocked == spins.busy
    spins.update([], 7 * S)
    assert spins.clocked == spins.busy == frozenset()


def clocked(lives: list[Life], samples: int, polling: int) -> list[Life]:
    thread = lives[0].thread._replace(clock_samples=samples, polling_samples=polling)
    return [lives[0]._replace(thread=thread), *lives[1:]]


@pytest.mark.parametrize(
    ("samples", "polling", "guilty"),
    [(100, 60, True), (100, 21, True), (100, 19, False), (500, 40, True), (500, 24, False)],
)
def test_a_poll_that_never_waits(samples: int, polling: int, guilty: bool) -> None:
    """Many answers, and a good part of them in the poll; the code is that of stacks read while it ran."""
    site = Site("search", "/app/agent.py", 3, ("search (/app/agent.py:3)",))
    stacks = tuple(StackSample(PID, PID, START, site, "", Wait.RUNNING) for _ in range(9))
    report = observe(clocked([life([run(3 * S)])], samples, polling), extra=stacks)
    check(report)
    found: list[dict[str, Any]] = report["findings"]
    assert [(f["kind"], f["function"], f["cpu_s"]) for f in found] == [
        ("busy_polling", "search", 3.0)
    ] * guilty


def test_a_loop_that_sleeps_is_not_spinning() -> None:
    """A server that looks for more work before it sleeps again."""
    lives = clocked([life([run(S), asleep(Wait.EPOLL, 3 * S)])], 100, 60)
    assert not observe(lives)["findings"]


def test_an_engine_left_idle_by_a_spinning_driver() -> None:
    """With an engine only its driver is guilty, of the time that the engine stood idle."""
    driver = life([infer(S), at(run(2 * S), "search"), infer(S)])
    (found,) = observe(clocked([driver], 200, 150))["findings"]
    assert (found["kind"], found["engine_idle_s"]) == ("busy_polling", pytest.approx(2.0))
    other = life([run(4 * S)], tid=PID + 1)
    assert not observe(clocked([other, life([infer(S), run(MS), infer(S)])], 200, 150))["findings"]
