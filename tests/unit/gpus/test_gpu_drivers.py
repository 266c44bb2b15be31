"""Which thread drives a GPU of which only samples are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.gpus.drivers import Drivers, Driving
from whyidle_daemon.processes import Process
from whyidle_daemon.timelines import Record
from whyidle_daemon.wakes import Wakes
from whyidle_probes.events import Start, Wait

MS = 1_000_000
MAIN, WORKER, OTHER = 10, 11, 12


def asleep(start: int, end: int, wait: Wait = Wait.FUTEX) -> Record:
    return Record(start * MS, (end - start) * MS, 0, int(wait), None)


def drivers(
    lines: dict[int, list[Record]],
    known: int | None = None,
    lives: dict[int, tuple[int, int]] | None = None,
) -> Drivers:
    began = {tid: (begin * MS, end * MS) for tid, (begin, end) in (lives or {}).items()}
    return Drivers(
        lambda process: known, lambda: {MAIN: list(lines)}, lambda tid: lines.get(tid, []), lambda pid: began
    )


def at(found: Drivers, start: int, end: int) -> Driving:
    return found.at(Process(MAIN, 0, provisional=False), start * MS, end * MS, end * MS)


def test_the_thread_at_work_when_the_gpu_begins() -> None:
    """The main thread waits for callers, a worker computes from 30 to 90 ms: the worker, until then."""
    lines = {MAIN: [asleep(0, 200)], WORKER: [asleep(0, 30), asleep(90, 200)], OTHER: [asleep(0, 200)]}
    assert at(drivers(lines), 0, 100) == (WORKER, 90 * MS, 90 * MS)


def test_a_thread_inside_the_driver_is_at_work() -> None:
    """Asleep on the device, as in a blocking synchronisation: that is driving."""
    lines = {MAIN: [asleep(0, 200)], WORKER: [asleep(0, 10), asleep(10, 80, Wait.DEVICE), asleep(80, 200)]}
    assert at(drivers(lines), 0, 100).tid == WORKER


def test_in_doubt_the_main_thread() -> None:
    """Nobody was at work; or the main thread as long as another one."""
    lines = {MAIN: [asleep(0, 200)], WORKER: [asleep(0, 200)]}
    assert at(drivers(lines), 0, 100) == (MAIN, 100 * MS, 100 * MS)
    lines = {MAIN: [asleep(0, 50), asleep(100, 200)], WORKER: [asleep(0, 45), asleep(100, 200)]}
    assert at(drivers(lines), 0, 100).tid == MAIN


def test_what_is_known_needs_no_guess() -> None:
    """The process has a model: who calls it drives."""
    lines = {MAIN: [asleep(0, 200)], WORKER: [asleep(0, 30), asleep(90, 200)]}
    assert at(drivers(lines, known=OTHER), 0, 100).tid == OTHER


def test_a_thread_that_never_slept_has_its_birth_and_end() -> None:
    """One thread for each call: made at 20, gone at 60 ms, and no slice of it."""
    lines = {MAIN: [asleep(0, 200)]}
    found = at(drivers(lines, lives={WORKER: (20, 60), OTHER: (150, 180)}), 0, 100)
    assert found == (WORKER, 60 * MS, 60 * MS)


def test_what_is_not_known_is_not_work() -> None:
    """Between the last slice of a thread that lives and now it may sleep still: nobody has seen it work."""
    lines = {MAIN: [asleep(0, 95), asleep(99, 200)], WORKER: [asleep(0, 10)]}
    assert at(drivers(lines), 20, 100).tid == MAIN


@given(
    st.dictionaries(
        st.integers(MAIN, MAIN + 5),
        st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50), st.sampled_from(list(Wait))), max_size=8),
    ),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_whatever_the_slices(steps: dict[int, list[tuple[int, int, Wait]]], start: int, end: int) -> None:
    """A thread that is there, and an instant in the window; the longest stretch never ends after the last."""
    lines: dict[int, list[Record]] = {}
    for tid, parts in steps.items():
        now = 0
        for ran, slept, wait in parts:
            lines.setdefault(tid, []).append(asleep(now + ran, now + ran + slept, wait))
            now += ran + slept
    found = at(drivers(lines), start, end)
    assert found.tid in {MAIN, *lines}
    assert found.until_ns <= found.last_ns <= max(start, end) * MS
    assert found.until_ns >= min(start, end) * MS


def test_births_are_kept_by_process() -> None:
    """A thread's life: from its start to its end, of the process that it is of."""
    wakes = Wakes(lambda pid, ns: Process(pid, 0, provisional=False))
    wakes.start(Start(1, 5, MAIN, WORKER, MAIN, MAIN))
    wakes.start(Start(1, 7, 20, 20, MAIN, MAIN))
    assert wakes.lives(MAIN) == {WORKER: (5, 0)}
    assert wakes.lives(20) == {20: (7, 0)}
