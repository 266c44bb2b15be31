"""What a waiting loop waits for, from chains of coroutines."""

from __future__ import annotations

import pytest

from whyidle_daemon.awaits import awaited
from whyidle_daemon.pystack import Frame, Task

LIB = "/usr/lib/python3.11"
SITE = "/app/.venv/lib/python3.11/site-packages"
MAIN = Frame("main", "/app/agent.py", 9)
SEARCH = Frame("search", "/app/agent.py", 4)
FETCH = Frame("fetch", "/app/agent.py", 14)
HTTP = Frame("AsyncClient.get", f"{SITE}/httpx/_client.py", 1)
WAIT = Frame("Event.wait", f"{LIB}/asyncio/locks.py", 1)
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
