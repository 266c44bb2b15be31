"""Which threads that have ended a report still has."""

from __future__ import annotations

import pytest
from timeline import S, asleep, life

from whyidle_daemon.attribution import ThreadTable
from whyidle_daemon.processes import ProcessTable
from whyidle_probes.events import Fork, Wait


def table(keep: set[int], number: int, limit: int = 100) -> ThreadTable:
    """So many threads end one after another; the later, the shorter they lived."""
    found, processes = ThreadTable(limit), ProcessTable()
    thread = life([asleep(Wait.SLEEP, S)], ended=True).thread
    for tid in range(1, number + 1):
        end_ns = thread.first_ns + tid * S
        lived = (number + 1 - tid) * 1000
        found.add(thread._replace(tid=tid, first_ns=end_ns - lived, end_ns=end_ns), processes, keep)
    return found


def test_the_shortest_lives_go_and_drivers_stay() -> None:
    """What drove an engine explains its idle time."""
    found = table({950, 990}, 1000)
    tids = {tid for _, tid, _ in found.exited}
    assert {950, 990} <= tids
    assert {1, 2, 3} <= tids
    assert len(tids) < 200
    assert found.omitted == 1000 - len(tids)
    assert sum(found.omitted_ns) == found.omitted * S


def test_drivers_without_end_are_bounded_too() -> None:
    """A server with a thread for each request: the latest stay."""
    found = table(set(range(1, 10_001)), 10_000)
    tids = {tid for _, tid, _ in found.exited}
    assert len(tids) < 200
    assert set(range(9_950, 10_001)) <= tids


def test_processes_that_all_live_are_not_looked_through_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing can be forgotten then; trying costs a few looks at each, however many there are."""
    looked = 0
    fold = ProcessTable._fold

    def counted(table: ProcessTable) -> None:
        nonlocal looked
        looked += len(table)
        fold(table)

    monkeypatch.setattr(ProcessTable, "_fold", counted)
    processes = ProcessTable(64)
    for pid in range(1, 20_001):
        processes.fork(Fork(1, pid, 1, pid, "x"))
    assert len(processes) == 20_000
    assert looked <= 10 * 20_000
