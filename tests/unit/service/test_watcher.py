"""When discovery looks: on the loop that the daemon runs on, which is uvloop's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import Discovery


def test_a_process_that_comes_while_a_look_is_due_at_once() -> None:
    """A look that is due now stays due; what is noticed meanwhile neither fails nor puts it off."""
    looks: list[list[int]] = []
    arrived = [[7], []]

    def noticed() -> list[int]:
        looks.append(arrived.pop(0))
        return looks[-1]

    kernel: Any = SimpleNamespace(noticed=noticed, notice=lambda on: None, target_of=lambda pid: 1)
    targets: Any = SimpleNamespace(kernel=kernel)
    proc: Any = SimpleNamespace()

    async def scenario() -> None:
        discovery = Discovery(DiscoveryConfig(), targets, SimpleNamespace(), proc, 1)  # type: ignore[arg-type]
        discovery.look_at([5])
        discovery._on_noticed()
        while not looks:
            await asyncio.sleep(0)
        discovery.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 10))
    assert looks == [[7]]
