"""When discovery looks: at once, soon, and never twice for one reason."""

from __future__ import annotations

import asyncio
from unittest.mock import MagicMock

import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import Discovery


def test_a_process_appears_while_a_look_is_due_at_once() -> None:
    """On uvloop, whose handle of such a timer has no ``when``."""

    async def story() -> int:
        kernel = MagicMock()
        kernel.noticed.return_value = []
        proc = MagicMock()
        proc.initial_namespace.return_value = True
        proc.pids.return_value = []
        targets = MagicMock(kernel=kernel)
        discovery = Discovery(DiscoveryConfig(), targets, MagicMock(), proc, 1)
        discovery.start()
        before = kernel.noticed.call_count
        discovery.look_at([])
        targets.on_noticed()
        while kernel.noticed.call_count == before:
            await asyncio.sleep(0)
        discovery.close()
        return int(kernel.noticed.call_count - before)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(story()) == 1
