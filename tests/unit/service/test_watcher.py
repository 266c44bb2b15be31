"""When discovery looks next, on the event loop that the daemon runs on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.watcher import Discovery


def discovery() -> Discovery:
    """One for a host without processes."""
    kernel = SimpleNamespace(notice=lambda on: None, noticed=list, target_of=lambda pid: None)
    targets = SimpleNamespace(kernel=kernel, on_noticed=None)
    proc = SimpleNamespace(initial_namespace=lambda: True, pids=list, started=lambda pid: 0)
    unused: Any = SimpleNamespace()
    return Discovery(DiscoveryConfig(), cast(Any, targets), unused, cast(Any, proc), 1)


@pytest.mark.parametrize("delays", [(0.0, 0.02), (0.02, 0.0), (0.0001, 0.0), (-1.0, 0.02)])
def test_a_look_that_is_due_at_once_can_be_followed_by_another(delays: tuple[float, float]) -> None:
    """A process that appears while a look is due already does not end discovery."""

    async def main() -> None:
        watcher = discovery()
        watcher.start()
        for delay in delays:
            watcher._schedule(delay)
        assert watcher._timer is not None
        watcher.close()

    uvloop.run(main())
