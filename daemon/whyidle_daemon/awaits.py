"""What a waiting asyncio loop waits for, from the await chains of its tasks: a pure function.

A loop in its selector has no frame of the program's own on its stack; its tasks have. A task waits for the
network when a library's or asyncio's own stream code is what its chain of coroutines ends in, not a timer,
a lock, a queue or another task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from whyidle_daemon.pystack import Frame, Origin, Task, origin, own_frame

_STREAMS = (
    "/asyncio/streams.py",
    "/asyncio/selector_events.py",
    "/asyncio/sslproto.py",
    "/asyncio/base_events.py",
)
_TIMERS = ("sleep", "wait_for")


class Awaited(NamedTuple):
    """The frames of the code that waits, innermost first, and whether it is the only one that does."""

    frames: tuple[Frame, ...]
    alone: bool


def awaited(tasks: Sequence[Task]) -> Awaited | None:
    """The code in which tasks wait for the network; ``None`` if none does, or several in different functions.

    Several tasks in one function are what ``asyncio.gather`` of searches looks like. Tasks of more than one
    loop say nothing, since a task does not name its thread.
    """
    if len({task.loop for task in tasks}) != 1:
        return None
    chains = [tuple(reversed(task.frames)) for task in tasks if not task.running]
    waiting = [chain for chain in chains if _waits_for_network(chain)]
    places = {_place(chain) for chain in waiting}
    if len(places) != 1 or None in places:
        return None
    return Awaited(waiting[0], len(waiting) == 1)


def _place(chain: tuple[Frame, ...]) -> tuple[str, str] | None:
    own = own_frame(chain)
    return (chain[own].function, chain[own].file) if own is not None else None


def _waits_for_network(chain: tuple[Frame, ...]) -> bool:
    own = own_frame(chain)
    if not own:  # the program's own code awaits a future or a task: nothing says that it is a socket
        return False
    innermost = chain[0]
    if innermost.file.endswith("/asyncio/tasks.py") and innermost.function in _TIMERS:
        return False
    return any(frame.file.endswith(_STREAMS) or origin(frame.file) is Origin.SITE for frame in chain[:own])
