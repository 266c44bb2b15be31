"""Memory read again: what changed, what is gone, and more pieces than one system call takes."""

from __future__ import annotations

import ctypes as c
import mmap
import os
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyidle_daemon.pystack import recheck
from whyidle_daemon.pystack.recheck import Group, Kept, begin, group_of, unchanged

ME = os.getpid()


def groups_in(memory: c.Array[c.c_char], sizes: list[list[int]]) -> list[Group]:
    """Groups of pieces of these sizes, one after the other."""
    at, found = 0, []
    for group in sizes:
        parts = []
        for size in group:
            parts.append((c.addressof(memory) + at, memory.raw[at : at + size]))
            at += size
        found.append(group_of(parts))
    return found


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=30),
    st.sets(st.integers(0, 29)),
)
def test_what_changed_is_told_by_group(sizes: list[list[int]], changed: set[int]) -> None:
    """One byte anywhere in a group, and only that group is another."""
    memory = c.create_string_buffer(bytes(range(256)) * 20, 256 * 20)
    groups = groups_in(memory, sizes)
    assert unchanged(ME, groups) == [True] * len(groups)
    at = 0
    for number, group in enumerate(sizes):
        if number in changed:
            place = at + sum(group) // 2
            memory[place] = bytes([memory.raw[place] ^ 1])
        at += sum(group)
    assert unchanged(ME, groups) == [number not in changed for number in range(len(groups))]


def test_more_pieces_than_one_call_takes() -> None:
    """The answers stay in order over several calls."""
    memory = c.create_string_buffer(bytes(range(250)) * 20, 5000)
    groups = groups_in(memory, [[1, 1]] * 2500)
    assert unchanged(ME, groups) == [True] * 2500
    memory[2 * 2000] = bytes([memory.raw[2 * 2000] ^ 1])
    assert [number for number, same in enumerate(unchanged(ME, groups)) if not same] == [2000]


def test_a_group_too_large_for_one_call_has_changed() -> None:
    """It is read again piece by piece then; those around it are told."""
    memory = c.create_string_buffer(5000)
    large = groups_in(memory, [[1] * 1025])[0]
    small = groups_in(memory, [[8]])[0]
    assert unchanged(ME, [small, large, small]) == [True, False, True]
    huge = Group(small.vectors, bytes(recheck._MAX_BYTES + 1))
    assert unchanged(ME, [small, huge, small]) == [True, False, True]


def test_memory_that_is_gone_has_changed() -> None:
    """What comes after it in the same call cannot be told, and is not taken for unchanged."""
    memory = c.create_string_buffer(b"abcdefgh" * 8)
    with mmap.mmap(-1, mmap.PAGESIZE) as gone:
        address = c.addressof(c.c_char.from_buffer(gone))
        groups = [*groups_in(memory, [[8]]), group_of([(address, bytes(8))]), *groups_in(memory, [[16]])]
        assert unchanged(ME, groups) == [True, True, True]
    assert unchanged(ME, groups)[:2] == [True, False]
    assert unchanged(ME, [group_of([(8, b"x")])]) == [False]


def test_nothing_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No groups, a process that is not there, a C library without the call."""
    memory = c.create_string_buffer(b"abcdefgh")
    groups = groups_in(memory, [[8]])
    assert unchanged(ME, []) == []
    assert unchanged(1 << 22, groups) == [False]

    def missing() -> None:
        raise AttributeError

    monkeypatch.setattr(recheck, "_readv", missing)
    assert unchanged(ME, groups) == [False]


class Thing(NamedTuple):
    memory: Group


def test_what_is_kept_from_reading_to_reading() -> None:
    """While its memory stays; what was not read again is let go, and a reading may trust nothing."""
    memory = c.create_string_buffer(b"abcdefgh" * 2)
    one, other = map(Thing, groups_in(memory, [[8], [8]]))
    kept: Kept[Thing] = Kept()
    begin(ME, [kept])
    kept.keep(1, one)
    kept.keep(2, other)
    assert (kept.get(1), kept.get(3)) == (one, None)

    memory[12] = b"!"
    begin(ME, [kept])
    assert (kept.get(1), kept.get(2), set(kept.before)) == (one, None, {1, 2})

    kept.keep(1, one)
    begin(None, [kept])
    assert (kept.get(1), set(kept.before)) == (None, {1})
    begin(ME, [kept])
    assert kept.get(1) == one
    begin(ME, [kept])
    assert (kept.get(1), set(kept.before)) == (None, set())
