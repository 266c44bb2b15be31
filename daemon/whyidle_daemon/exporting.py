"""The metrics endpoint of a running daemon, as configured now.

An address may not be there yet when a host boots, or be another's for a while: what cannot be listened on is
tried again until it can. What was served before goes on until the new one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from whyidle_daemon import left_out
from whyidle_daemon.config import Metrics
from whyidle_daemon.discovery.watcher import Discovery
from whyidle_daemon.sessions import Sessions
from whyidle_daemon.targets import Targets
from whyidle_daemon.version import VERSION

if TYPE_CHECKING:
    from whyidle_daemon.metrics.exporter import Exporter

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0


class Exporting:
    """Keeps an exporter where the configuration wants one. ``clients`` says how many there are."""

    def __init__(
        self, targets: Targets, sessions: Sessions, discovery: Discovery | None, clients: Callable[[], int]
    ) -> None:
        self._targets, self._sessions, self._discovery = targets, sessions, discovery
        self._clients = clients
        self._exporter: Exporter | None = None
        self._wanted = Metrics()
        self._complaint = ""
        self._one = asyncio.Lock()  # at a time: a reload may come while the one before is not done
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # held while it runs: the loop alone does not
        self._closed = False

    async def configure(self, config: Metrics) -> None:
        """Serve as this says, or no more. What cannot be listened on is logged, and tried again."""
        if config != self._wanted:
            self._wanted, self._complaint = config, ""
        async with self._one:
            self._rest()
            if not self._closed and not await self._serve(config):
                self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def close(self) -> None:
        """The daemon ends."""
        self._closed = True
        self._rest()
        if self._exporter is not None:
            self._exporter.close()

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retry(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.configure(self._wanted))

    async def _serve(self, config: Metrics) -> bool:
        old = self._exporter
        if old is not None and old.config == config:
            return True
        if not config.listen:
            if old is not None:
                old.close()
                self._exporter = self._targets.on_inference = None
                self._sessions.on_cut = lambda session, goes_on: None
            return True
        with left_out.servers():
            from whyidle_daemon.metrics.exporter import Exporter  # noqa: PLC0415 (only for those who want it)

        kernel = self._targets.kernel
        new = Exporter(config, self._sessions, self._discovery, kernel, lambda: (VERSION, self._clients()))
        in_the_way = old is not None and old.port == config.address[1]
        if old is not None and in_the_way:
            old.close()
        try:
            await new.start()
        except OSError as error:
            self._complain(f"no metrics: cannot listen on {config.listen}: {error.strerror}")
            if old is not None and in_the_way:
                with contextlib.suppress(OSError):
                    await old.start()
            return False
        if self._closed:
            new.close()
            return True
        if old is not None:
            old.close()
        self._exporter = new
        self._targets.on_inference, self._sessions.on_cut = new.inference, new.ended
        return True

    def _complain(self, text: str) -> None:
        """Once, and not at every try."""
        log.log(logging.DEBUG if text == self._complaint else logging.ERROR, "%s", text)
        self._complaint = text
