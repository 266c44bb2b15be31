"""When discovery looks, on the loop that the daemon uses."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import TURN_S, Discovery


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
