"""What a waiting loop waits for, from chains of coroutines."""

from __future__ import annotations

import pytest

from whyidle_daemon.awaits import awaited, chains
from whyidle_daemon.pystack import Frame, Task

LIB = "/usr/lib/python3.11"
SITE = "/app/.venv/lib/python3.11/site-packages"
MAIN = Frame("main", "/app/agent.py", 9)
SEARCH = Frame("search", "/app/agent.py", 4)
FETCH = Frame("fetch", "/app/agent.py", 14)
HTTP = Frame("AsyncClient.get", f"{SITE}/httpx/_client.py", 1)
WAIT = Frame("Event.wait", f"{LIB}/asyncio/locks.py", 1)
WAIT_FOR = Frame("wait_for", f"{LIB}/asyncio/tasks.py", 1)
STREAM = Frame("StreamReader._wait_for_data", f"{LIB}/asyncio/streams.py", 1)
SLEEP = Frame("sleep", f"{LIB}/asyncio/tasks.py", 1)


def task(*frames: Frame, loop: int = 1, running: bool = False) -> Task:
    return Task(None, frames, running, loop)


@pytest.mark.parametrize(
    ("tasks", "function", "alone"),
    [
        ([task(MAIN, SEARCH, HTTP, WAIT)], "search", True),
        ([task(MAIN, SEARCH, STREAM)], "search", True),
        ([task(MAIN), task(SEARCH, HTTP, WAIT)], "search", True),  # main awaits the other task
        ([task(SEARCH, HTTP, WAIT), task(MAIN, SLEEP)], "search", True),  # a timer asks nobody
        ([task(SEARCH, HTTP, WAIT), task(MAIN, WAIT)], "search", True),  # nor does a lock
        ([task(SEARCH, HTTP, WAIT), task(SEARCH, HTTP, WAIT), task(MAIN)], "search", False),
        ([task(SEARCH, HTTP, WAIT), task(FETCH, HTTP, WAIT)], None, False),
        ([task(SEARCH, HTTP, WAIT), task(FETCH, HTTP, WAIT, running=True)], "search", True),
        ([task(SEARCH, HTTP, WAIT), task(MAIN, loop=2)], None, False),  # which loop is this thread's?
        ([task(MAIN, SLEEP)], None, False),
        ([task(MAIN)], None, False),
        ([], None, False),
    ],
)
def test_awaited(tasks: list[Task], function: str | None, alone: bool) -> None:
    """The one function in which tasks await the network, and whether one task alone does."""
    found = awaited(tasks)
    own = (
        next((frame.function for frame in found.frames if "/app/agent" in frame.file), None)
        if found
        else None
    )
    assert (own, found is not None and found.alone) == (function, alone)
    if found:
        assert found.frames[-1] in (MAIN, SEARCH, FETCH)  # innermost first


def numbered(number: int, *frames: Frame, joins: tuple[int, ...] = (), name: str | None = None) -> Task:
    return Task(name, frames, False, 1, number, "task" if joins else "socket", None, joins)


def test_a_coroutine_in_a_task_of_its_own_is_whose_awaits_it() -> None:
    """Before 3.12 ``wait_for`` wraps what it is given: the code that asked is the outer task's."""
    outer, inner = numbered(1, SEARCH, WAIT_FOR, joins=(2,)), numbered(2, STREAM)
    by_task = {chain.task.address: chain for chain in chains([inner, outer])}
    assert by_task[2].frames == (STREAM, WAIT_FOR, SEARCH)
    assert (by_task[1].wanted, by_task[2].wanted) == (False, True)
    found = awaited([inner, outer])
    assert found is not None
    assert (found.frames[-1], found.alone) == (SEARCH, True)


def test_a_task_that_two_await_is_neithers() -> None:
    """Who asked first cannot be told."""
    tasks = [numbered(1, SEARCH, joins=(3,)), numbered(2, FETCH, joins=(3,)), numbered(3, STREAM)]
    assert [chain.frames for chain in chains(tasks)][2] == (STREAM,)


def test_tasks_that_await_one_another_in_a_circle() -> None:
    """Only memory that lies has such; it ends."""
    tasks = [numbered(1, STREAM, joins=(2,)), numbered(2, WAIT, joins=(1,))]
    assert all(len(chain.frames) <= 5 for chain in chains(tasks))


def test_what_is_wanted() -> None:
    """The main task, whatever it waits for, and what another one awaits; not what runs beside them."""
    tasks = [numbered(1, MAIN, joins=(2,), name="Task-1"), numbered(2, SEARCH), numbered(3, FETCH)]
    assert [chain.wanted for chain in chains(tasks)] == [True, True, False]


def test_what_a_task_was_seen_to_wait_for_counts_before_its_frames() -> None:
    """A socket that the program's own code awaits through a library that is not known by name."""
    plain = Frame("receive", "/app/vendor/lib/python3.11/site-packages/x/y.py", 1)
    seen = Task(None, (SEARCH, plain, WAIT), False, 1, 1, "socket", 7)
    assert awaited([seen]) is not None
    assert awaited([seen._replace(frames=(SEARCH,))]) is None  # no library frame: nothing says that it is one
