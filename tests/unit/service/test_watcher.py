"""When discovery looks, on the loop that the daemon uses."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import Discovery


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_noticed_while_a_look_is_due_at_once(run: Any) -> None:
    """One look for both. uvloop's handle of what is due at once does not tell when that is."""

    async def scene() -> int:
        looked: list[int] = []
        kernel = SimpleNamespace(noticed=lambda: looked, notice=lambda on: None)
        nothing = cast("Any", None)
        found = Discovery(DiscoveryConfig(), cast("Any", SimpleNamespace(kernel=kernel)), nothing, nothing, 1)
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
