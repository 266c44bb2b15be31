"""When discovery looks, on the loop that the daemon uses."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import LOOKING_S, TURN_S, Discovery


def watcher() -> Discovery:
    """One that finds nothing."""
    kernel = SimpleNamespace(noticed=list, notice=lambda on: None)
    nothing = cast("Any", None)
    return Discovery(DiscoveryConfig(), cast("Any", SimpleNamespace(kernel=kernel)), nothing, nothing, 1)


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_noticed_while_a_look_is_due_at_once(run: Any) -> None:
    """One look for both. uvloop's handle of what is due at once does not tell when that is."""

    async def scene() -> int:
        found = watcher()
        turns: list[None] = []
        ran = asyncio.Event()
        turn = found._turn

        def counted() -> None:
            turns.append(None)
            turn()
            ran.set()

        found._turn = counted  # type: ignore[method-assign]
        found.look_at([])
        found._on_noticed()
        await ran.wait()
        found.close()
        return len(turns)

    assert run(scene()) == 1


def test_a_hundred_reloads_leave_one_timer() -> None:
    """Each looks at once, in place of the turn that was due and not beside it, for ever."""

    async def scene() -> int:
        found = watcher()
        looks: list[int] = []

        def look(pid: int) -> bool:
            looks.append(pid)
            return False

        found._look = look  # type: ignore[method-assign]
        turns: list[None] = []
        turn = found._turn

        def counted() -> None:
            turns.append(None)
            turn()

        found._turn = counted  # type: ignore[method-assign]
        due = asyncio.get_running_loop().time() + TURN_S
        found._put(7, due, 0)
        for _ in range(100):
            turn()  # as a reload does
        while not looks:
            await asyncio.sleep(TURN_S / 10)
        await asyncio.sleep(TURN_S)
        found.close()
        assert looks == [7]
        return len(turns)

    assert uvloop.run(scene()) <= 2  # the second, if the first came a moment before it was due


def test_a_turn_ends_although_looks_are_long() -> None:
    """What is left is looked at in the turns after, and the loop does other things in between."""

    async def scene() -> list[int]:
        found = watcher()
        looks: list[int] = []

        def look(pid: int) -> bool:
            looks.append(pid)
            end = time.monotonic() + LOOKING_S
            while time.monotonic() < end:
                pass
            return False

        found._look = look  # type: ignore[method-assign]
        found.look_at([1, 2, 3])
        turns = []
        while len(looks) < 3:
            await asyncio.sleep(0)
            turns.append(len(looks))
        found.close()
        return turns

    assert {1, 2} <= set(uvloop.run(scene()))
