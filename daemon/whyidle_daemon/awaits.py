"""Whether an asyncio loop waits, and what for, from the await chains of its tasks: pure functions.

A loop in its selector has no frame of the program's own on its stack; its tasks have. A task waits for the
network when it was seen to wait for a socket; where that was not looked at, when a library's or asyncio's own
stream code is what its chain of coroutines ends in, not a timer, a lock, a queue or another task.

A coroutine that is wrapped in a task of its own by asyncio (``wait_for`` before 3.12) or a library has no
frame of the program's own: then the task that awaits it, if there is one such, says who asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from whyidle_daemon.pystack import Frame, Origin, Task, origin, own_frame
from whyidle_daemon.pystack.awaiting import SOCKET
from whyidle_daemon.states import SELECTORS

_STREAMS = (
    "/asyncio/streams.py",
    "/asyncio/selector_events.py",
    "/asyncio/sslproto.py",
    "/asyncio/base_events.py",
)
_TIMERS = ("sleep", "wait_for")
_MAX_WRAPPED = 4
_MAIN = "Task-1"  # asyncio.run and its like make it first


class Awaited(NamedTuple):
    """The frames of the code that waits, innermost first, and whether it is the only one that does."""

    frames: tuple[Frame, ...]
    alone: bool


class Chain(NamedTuple):
    """A suspended task with the frames of whoever awaits it, innermost first.

    ``wanted``: the main task waits for it, or it is that one, or another task waits for it.
    """

    task: Task
    frames: tuple[Frame, ...]
    wanted: bool


def loop_of(frames: Iterable[Frame], wait: int) -> str:
    """Is an asyncio loop running in this stack, and what keeps it: its selector or a call?

    ``""``: no loop. ``"waiting"``: the loop sleeps in its selector, with nothing due. ``"blocked"``: a
    callback or a coroutine step sleeps in a synchronous call, and every other task waits with it.
    """
    inner: list[Frame] = []
    for frame in frames:
        if _is_loop(frame):
            break
        inner.append(frame)
    else:
        return ""
    if all(frame.file.endswith("/selectors.py") for frame in inner) or (
        wait in SELECTORS and not any(not _is_machinery(frame) for frame in inner)
    ):
        return "waiting"
    return "blocked"


def _is_loop(frame: Frame) -> bool:
    """The loop's own frame. uvloop's is compiled and leaves none: asyncio's runner is the one above it."""
    if frame.file.endswith("/asyncio/base_events.py"):
        return frame.function.rpartition(".")[2] in ("_run_once", "run_forever", "run_until_complete")
    return frame.file.endswith("/asyncio/runners.py") and frame.function.rpartition(".")[2] == "run"


def _is_machinery(frame: Frame) -> bool:
    return "/asyncio/" in frame.file or frame.file.endswith("/selectors.py")


def chains(tasks: Sequence[Task]) -> list[Chain]:
    """The chain of every task that does not run."""
    waiters: dict[int, list[Task]] = {}
    for task in tasks:
        for joined in task.joins:
            waiters.setdefault(joined, []).append(task)
    found = []
    for task in tasks:
        if task.running:
            continue
        frames = tuple(reversed(task.frames))
        last = task
        for _ in range(_MAX_WRAPPED):
            by = waiters.get(last.address, [])
            if len(by) != 1 or any(origin(frame.file) is Origin.OWN for frame in frames):
                break
            frames += tuple(reversed(by[0].frames))
            last = by[0]
        found.append(Chain(task, frames, task.name == _MAIN or bool(waiters.get(task.address))))
    return found


def awaited(tasks: Sequence[Task]) -> Awaited | None:
    """The code in which tasks wait for the network; ``None`` if none does, or several in different functions.

    Several tasks in one function are what ``asyncio.gather`` of searches looks like."""
    if len({task.loop for task in tasks}) != 1:
        return None
    waiting = [chain.frames for chain in chains(tasks) if _waits_for_network(chain)]
    places = {_place(frames) for frames in waiting}
    if len(places) != 1 or None in places:
        return None
    return Awaited(waiting[0], len(waiting) == 1)


def _place(frames: tuple[Frame, ...]) -> tuple[str, str] | None:
    own = own_frame(frames)
    return (frames[own].function, frames[own].file) if own is not None else None


def _waits_for_network(chain: Chain) -> bool:
    frames = chain.frames
    own = own_frame(frames)
    if not own:  # the program's own code awaits a future or a task: nothing says that it is a socket
        return False
    if chain.task.kind == SOCKET:
        return True
    innermost = frames[0]
    if innermost.file.endswith("/asyncio/tasks.py") and innermost.function in _TIMERS:
        return False
    return any(frame.file.endswith(_STREAMS) or origin(frame.file) is Origin.SITE for frame in frames[:own])
