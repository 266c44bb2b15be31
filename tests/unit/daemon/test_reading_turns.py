"""Which kinds of waits count as known, however many a thread has."""

from __future__ import annotations

import pytest

from whyidle_daemon.reading_turns import LASTING_NS, MAX_KINDS, ReadingTurns
from whyidle_probes.events import NO_PEER, Glance, Wait

TID, NOW = 7, 1_000_000_000


def asleep(port: int) -> Glance:
    """In a wait for a server of its own."""
    peer = NO_PEER._replace(remote=bytes(16), remote_port=port, family=2)
    return Glance(TID, TID, NOW - LASTING_NS // 2, 0, 0, int(Wait.TCP), 0, 3, peer, 0)


def known(turns: ReadingTurns, port: int) -> bool:
    """What is known comes after what is not."""
    return turns.order(asleep(port))[0]


@pytest.mark.parametrize("kinds", [1, MAX_KINDS - 1, MAX_KINDS])
def test_a_wait_that_is_read_again_makes_no_other_one_new(kinds: int) -> None:
    """However many the thread was read in, and which of them it is."""
    turns = ReadingTurns()
    turns.begin(NOW)
    for port in range(kinds):
        turns.tried(asleep(port), settled=True)
    for again in range(kinds):
        turns.tried(asleep(again), settled=True)
        assert all(known(turns, port) for port in range(kinds))


def test_a_new_kind_takes_the_place_of_that_read_longest_ago() -> None:
    turns = ReadingTurns()
    turns.begin(NOW)
    for port in range(MAX_KINDS + 1):
        turns.tried(asleep(port), settled=True)
    assert [known(turns, port) for port in range(MAX_KINDS + 1)] == [False] + [True] * MAX_KINDS
